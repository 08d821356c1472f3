/* The attribute `tree` of a convolution's node: trees over the filters of its groups, as short text.
 *
 * It is a string of bits, six to a character of base64's alphabet, the lowest first. Group after group it holds: how
 * many nodes the tree has beyond the group's filters (16 bits); for each filter, whether its node is its complement;
 * for each node, 0 for the filter of zeros as its parent or else 1 + the parent's number, in as many bits as the count
 * of nodes takes. Numbers begin with their lowest bit; the last character is filled up with zeros. */
#include "tree_attribute.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

enum { CHARACTER_BITS = 6, COUNT_BITS = 16 };

/* Characters from the left, each turned into its six bits. */
typedef struct bit_reader {
    uint8_t *sextets;
    size_t bits, at;
} bit_reader;

static size_t bit_length(size_t value) {
    size_t bits = 0;
    for (; value; value >>= 1)
        bits++;
    return bits;
}

static bool left(const bit_reader *from, size_t bits) { return from->bits - from->at >= bits; }

static uint32_t take(bit_reader *from, size_t bits) {
    uint32_t value = 0;
    for (size_t i = 0; i < bits; i++, from->at++)
        value |= (uint32_t)(from->sextets[from->at / CHARACTER_BITS] >> from->at % CHARACTER_BITS & 1) << i;
    return value;
}

/* Turns text in place; false where a character is not of the alphabet. */
static bool to_sextets(char *text, size_t length) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < length; i++) {
        const char *found = memchr(alphabet, text[i], sizeof alphabet - 1);
        if (!found)
            return false;
        text[i] = (char)(found - alphabet);
    }
    return true;
}

void free_tree_attribute(tree_attribute *tree) {
    free(tree->group_nodes);
    free(tree->parents);
    free(tree->flipped);
}

static bnncc_status read_groups(bit_reader *from, const bnncc_conv_params *params, tree_attribute *tree,
                                bnncc_error *error) {
    const size_t groups = (size_t)params->group, channels = (size_t)params->out_channels, filters = channels / groups;
    /* A node takes a bit at least, so that no more of them are read than there are bits. */
    tree->group_nodes = allocate(groups, sizeof *tree->group_nodes);
    tree->parents = allocate(from->bits, sizeof *tree->parents);
    tree->flipped = allocate(channels, 1);
    if (!tree->group_nodes || !tree->parents || !tree->flipped)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for the trees of %zu filters", channels);
    for (size_t group = 0; group < groups; group++) {
        if (!left(from, COUNT_BITS))
            return fail(error, BNNCC_INVALID_ARGUMENT, "attribute 'tree' ends before group %zu of %zu", group, groups);
        const size_t nodes = filters + take(from, COUNT_BITS), node_bits = bit_length(nodes);
        /* No overflow: filters are at most 2^31 - 1. */
        if (!left(from, filters + nodes * node_bits))
            return fail(error, BNNCC_INVALID_ARGUMENT,
                        "attribute 'tree' ends within group %zu, whose tree has %zu nodes", group, nodes);
        for (size_t filter = 0; filter < filters; filter++)
            tree->flipped[group * filters + filter] = (uint8_t)take(from, 1);
        for (size_t i = 0; i < nodes; i++)
            tree->parents[tree->node_count++] = (int32_t)take(from, node_bits) - 1;
        tree->group_nodes[group] = (int64_t)nodes;
    }
    if (from->bits - from->at >= CHARACTER_BITS)
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute 'tree' goes on for %zu characters after its last tree",
                    (from->bits - from->at) / CHARACTER_BITS);
    return BNNCC_OK;
}

bnncc_status read_tree_attribute(const op_node *node, const bnncc_conv_params *params, tree_attribute *tree,
                                 bnncc_error *error) {
    char *text = NULL;
    size_t length = 0;
    *tree = (tree_attribute){0};
    bnncc_status status = node_optional_text(node, "tree", &text, &length, error);
    if (status != BNNCC_OK || !text)
        return status;
    if (!to_sextets(text, length))
        status = fail(error, BNNCC_INVALID_ARGUMENT, "attribute 'tree' has a character that is none of base64's");
    bit_reader from = {.sextets = (uint8_t *)text, .bits = length * CHARACTER_BITS};
    if (status == BNNCC_OK)
        status = read_groups(&from, params, tree, error);
    free(text);
    return status;
}
