/* The virtual filters of a tree, which follow from its shape and its filters. */
#include "../checked.h"
#include "../signs.h"
#include "tree.h"

#include <stdlib.h>

enum { BITS = 64 };

/* One word of every node. Going up, each node says for every bit how much better a one is than a zero for what lies
 * below it: at most by 1, for its parent's edge may differ instead. Going down, a virtual node is as its parent, unless
 * the other value is better by more than that edge. votes [nodes][BITS] are 0 before and after. */
static void choose_word(const int32_t *parents, const int32_t *order, size_t nodes, size_t filters, bool shared_root,
                        int32_t *votes, uint64_t *word) {
    for (size_t i = 0; i < nodes; i++) {
        const size_t node = (size_t)order[i];
        int32_t *mine = votes + node * BITS;
        if (node < filters)
            for (size_t bit = 0; bit < BITS; bit++)
                mine[bit] = word[node] >> bit & 1 ? 1 : -1;
        if (parents[node] == NO_PARENT)
            continue;
        int32_t *above = votes + (size_t)parents[node] * BITS;
        for (size_t bit = 0; bit < BITS; bit++)
            above[bit] += (mine[bit] > 0) - (mine[bit] < 0);
    }
    for (size_t i = nodes; i-- > 0;) {
        const size_t node = (size_t)order[i];
        int32_t *mine = votes + node * BITS;
        if (node >= filters) {
            const bool free_root = parents[node] == NO_PARENT && !shared_root;
            const uint64_t above = parents[node] == NO_PARENT ? 0 : word[parents[node]];
            uint64_t one = 0, zero = 0;
            for (size_t bit = 0; bit < BITS; bit++) {
                one |= (uint64_t)(mine[bit] > !free_root) << bit;
                zero |= (uint64_t)(mine[bit] < -1) << bit;
            }
            word[node] = one | (above & ~zero);
        }
        memset(mine, 0, BITS * sizeof *mine);
    }
}

bnncc_status bnncc_virtual_filters(const uint8_t *filters, int64_t filter_count, int64_t length, const int32_t *parents,
                                   const uint8_t *flipped, int64_t node_count, int shared_root, uint8_t *bits,
                                   bnncc_error *error) {
    bool overflow = false;
    bnncc_status status = BNNCC_OK;
    if (check_size("filter_count", filter_count, 1, error) || check_filter_length(length, error) ||
        check_size("node_count", node_count, filter_count, error))
        return BNNCC_INVALID_ARGUMENT;
    if (!filters || !parents || !flipped || !bits)
        return fail(error, BNNCC_INVALID_ARGUMENT, "an argument of bnncc_virtual_filters is NULL");
    const size_t nodes = (size_t)node_count, count = (size_t)filter_count, bytes = sign_bytes((size_t)length);
    times(nodes, bytes, &overflow);
    const size_t vote_count = times(nodes, BITS, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the tree's size overflows");
    int32_t *children = allocate(nodes, sizeof *children), *order = allocate(nodes, sizeof *order);
    int32_t *votes = allocate(vote_count, sizeof *votes);
    uint64_t *word = allocate(nodes, sizeof *word);
    if (!children || !order || !votes || !word)
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a tree of %zu nodes", nodes);
    else if (!tree_bottom_up(parents, nodes, children, order))
        status = fail(error, BNNCC_INVALID_ARGUMENT, "the parents are not those of a tree");
    else {
        memset(votes, 0, vote_count * sizeof *votes);
        for (size_t begin = 0; begin < bytes; begin += 8) {
            const size_t width = smaller(bytes - begin, 8);
            const uint64_t used = low_bits((size_t)length - 8 * begin);
            for (size_t i = 0; i < nodes; i++)
                word[i] = i < count ? (load_word(filters + i * bytes + begin, width) ^ (flipped[i] ? used : 0)) : 0;
            choose_word(parents, order, nodes, count, shared_root != 0, votes, word);
            for (size_t i = 0; i < nodes; i++)
                store_word(bits + i * bytes + begin, word[i] & used, width);
        }
    }
    free(children);
    free(order);
    free(votes);
    free(word);
    return status;
}
