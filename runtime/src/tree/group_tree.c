/* A layer's tree, as files and callers give it: checked, and split into the trees of its groups. */
#include "../checked.h"
#include "../signs.h"
#include "tree.h"

#include <inttypes.h>
#include <stdlib.h>

bnncc_status check_filter_length(int64_t length, bnncc_error *error) {
    if (length < 1 || length > DOT_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "length is %" PRId64 ", outside [1, 2^24]", length);
    return BNNCC_OK;
}

static bnncc_status check_group(const int32_t *parents, size_t nodes, size_t group, int32_t *children, int32_t *order,
                                bnncc_error *error) {
    for (size_t node = 0; node < nodes; node++)
        if (parents[node] < NO_PARENT || parents[node] >= (int64_t)nodes)
            return fail(error, BNNCC_INVALID_ARGUMENT,
                        "the filter tree of group %zu has node %" PRId32 " as a parent, but %zu nodes", group,
                        parents[node], nodes);
    if (!tree_bottom_up(parents, nodes, children, order))
        return fail(error, BNNCC_INVALID_ARGUMENT, "the filter tree of group %zu has a cycle", group);
    return BNNCC_OK;
}

bnncc_status check_filter_tree(const bnncc_filter_tree *tree, size_t groups, size_t filters, bnncc_error *error) {
    if (!tree->group_nodes || !tree->parents || !tree->flipped)
        return fail(error, BNNCC_INVALID_ARGUMENT, "an array of the filter tree is NULL");
    size_t begin = 0;
    for (size_t group = 0; group < groups; group++) {
        const int64_t nodes = tree->group_nodes[group];
        if (nodes < (int64_t)filters || nodes > SIZE_LIMIT || (size_t)nodes > tree->node_count - begin)
            return fail(error, BNNCC_INVALID_ARGUMENT,
                        "the filter tree of group %zu has %" PRId64
                        " nodes, not %zu filters and more, of %zu nodes left",
                        group, nodes, filters, tree->node_count - begin);
        begin += (size_t)nodes;
    }
    if (begin != tree->node_count)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the filter tree has %zu parents for %zu nodes", tree->node_count,
                    begin);
    for (size_t filter = 0; filter < groups * filters; filter++)
        if (tree->flipped[filter] > 1)
            return fail(error, BNNCC_INVALID_ARGUMENT, "the filter tree's flipped is %d for filter %zu, not 0 or 1",
                        tree->flipped[filter], filter);
    int32_t *children = allocate(tree->node_count, sizeof *children), *order = allocate(begin, sizeof *order);
    bnncc_status status = BNNCC_OK;
    if (!children || !order)
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a tree of %zu nodes", begin);
    begin = 0;
    for (size_t group = 0; !status && group < groups; group++) {
        const size_t nodes = (size_t)tree->group_nodes[group];
        status = check_group(tree->parents + begin, nodes, group, children, order, error);
        begin += nodes;
    }
    free(children);
    free(order);
    return status;
}

/* One group's tree, whose filters are `weight`, from its parents and flags. */
static bnncc_status create_group(group_tree *group, const int32_t *parents, const uint8_t *flipped,
                                 const uint8_t *weight, size_t filters, size_t length, bnncc_error *error) {
    const size_t nodes = group->node_count;
    bool overflow = false;
    const size_t bytes = times(nodes, sign_bytes(length), &overflow);
    int32_t slot_count = 0;
    group->bits = overflow ? NULL : allocate(bytes, 1);
    group->parents = allocate(nodes, sizeof *group->parents);
    group->flipped = allocate(filters, 1);
    group->order = allocate(nodes, sizeof *group->order);
    group->slots = allocate(nodes, sizeof *group->slots);
    if (!group->bits || !group->parents || !group->flipped || !group->order || !group->slots)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a tree of %zu nodes", nodes);
    memcpy(group->parents, parents, nodes * sizeof *parents);
    memcpy(group->flipped, flipped, filters);
    bnncc_status status = bnncc_virtual_filters(weight, (int64_t)filters, (int64_t)length, parents, flipped,
                                                (int64_t)nodes, 1, group->bits, error);
    if (!status)
        status = bnncc_tree_schedule(parents, (int64_t)nodes, group->order, group->slots, &slot_count, error);
    group->slot_count = (size_t)slot_count;
    return status;
}

bnncc_status group_trees_create(const bnncc_filter_tree *tree, const uint8_t *weight, size_t groups, size_t filters,
                                size_t length, group_tree **result, bnncc_error *error) {
    bnncc_status status = check_filter_tree(tree, groups, filters, error);
    if (status)
        return status;
    group_tree *trees = allocate(groups, sizeof *trees);
    if (!trees)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for %zu trees", groups);
    memset(trees, 0, groups * sizeof *trees);
    size_t begin = 0;
    for (size_t group = 0; !status && group < groups; group++) {
        trees[group].node_count = (size_t)tree->group_nodes[group];
        status = create_group(&trees[group], tree->parents + begin, tree->flipped + group * filters,
                              weight + group * filters * sign_bytes(length), filters, length, error);
        begin += trees[group].node_count;
    }
    if (status) {
        group_trees_destroy(trees, groups);
        return status;
    }
    *result = trees;
    return BNNCC_OK;
}

void group_trees_destroy(group_tree *trees, size_t groups) {
    if (!trees)
        return;
    for (size_t group = 0; group < groups; group++) {
        free(trees[group].bits);
        free(trees[group].parents);
        free(trees[group].flipped);
        free(trees[group].order);
        free(trees[group].slots);
    }
    free(trees);
}
