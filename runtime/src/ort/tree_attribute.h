/* The filter trees that a convolution's node carries. */
#ifndef BNNCC_ORT_TREE_ATTRIBUTE_H
#define BNNCC_ORT_TREE_ATTRIBUTE_H

#include "op.h"

/* What bnncc_filter_tree points to; all NULL where the node has no trees. */
typedef struct tree_attribute {
    int64_t *group_nodes;
    int32_t *parents;
    size_t node_count;
    uint8_t *flipped;
} tree_attribute;

/* Reads the optional attribute `tree` of a node whose params are valid. Whether its parents make trees is for
 * bnncc_conv_create to check. To be freed, also after an error. */
bnncc_status read_tree_attribute(const op_node *node, const bnncc_conv_params *params, tree_attribute *tree,
                                 bnncc_error *error);
void free_tree_attribute(tree_attribute *tree);

#endif /* BNNCC_ORT_TREE_ATTRIBUTE_H */
