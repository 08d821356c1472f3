/* Trees over filters: what their parts share, and the trees of a layer's groups as kernels count along them. */
#ifndef BNNCC_TREE_H
#define BNNCC_TREE_H

#include "bnncc.h"

#include <stdbool.h>

/* The parent of a node that has none. */
enum { NO_PARENT = -1 };

/* BNNCC_INVALID_ARGUMENT unless a filter may have so many weights. */
bnncc_status check_filter_length(int64_t length, bnncc_error *error);

/* Nodes from the leaves up, every node before its parent; false where parents are no nodes or go in circles.
 * children: room for `nodes` counts. */
bool tree_bottom_up(const int32_t *parents, size_t nodes, int32_t *children, int32_t *order);

/* BNNCC_INVALID_ARGUMENT unless it is a tree for each of `groups` groups of `filters` filters. */
bnncc_status check_filter_tree(const bnncc_filter_tree *tree, size_t groups, size_t filters, bnncc_error *error);

/* The tree of one group, all that follows from a bnncc_filter_tree and the filters included. */
typedef struct group_tree {
    size_t node_count, slot_count;
    uint8_t *bits; /* packed signs [node_count][ceil(length / 8)]: what each node counts; see bnncc_virtual_filters */
    int32_t *parents; /* [node_count] */
    uint8_t *flipped; /* [filters] */
    int32_t *order;   /* [node_count]; it and slots as bnncc_tree_schedule gives them */
    int32_t *slots;   /* [node_count] */
} group_tree;

/* weight: packed signs [groups * filters][ceil(length / 8)]. The trees are copies, to be given to group_trees_destroy.
 */
bnncc_status group_trees_create(const bnncc_filter_tree *tree, const uint8_t *weight, size_t groups, size_t filters,
                                size_t length, group_tree **trees, bnncc_error *error);
void group_trees_destroy(group_tree *trees, size_t groups);

#endif /* BNNCC_TREE_H */
