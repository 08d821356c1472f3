/* Trees over filters with virtual filters between them, found as trees of maximum parsimony are.
 *
 * Given the shape of a tree with the filters at its leaves, the virtual filters at its inner nodes that make the
 * differing bits along its edges fewest follow from Fitch's algorithm (1971): each node has, for every bit, the set of
 * values that are best for what lies below it. With such a set for both sides of every edge, the growth of the tree by
 * a branch that is grafted onto an edge is exactly the number of bits in which the branch's set and the edge's have no
 * value in common. So the search needs rows of bits only, and no virtual filter is ever written down. */
#include "../checked.h"
#include "../signs.h"
#include "rows.h"
#include "tree.h"

#include <stdlib.h>

enum { NONE = -1, ROOT = 0 };

typedef struct search {
    const row_kernel *kernel;
    size_t count, nodes, words;
    int32_t beyond; /* bits of a row beyond the filters' length */
    bool complement;
    int32_t *parent;
    int32_t (*child)[2]; /* [nodes]; the root's only child first, then NONE */
    uint8_t *flipped;    /* [count] */
    uint64_t *down, *up; /* [nodes][2][words]: the set of the branch at the node, and of all the rest */
    uint64_t *any;       /* the set of all values of every bit */
    uint64_t *used;      /* [words]: ones at the filters' bits */
    int32_t *stack;      /* [nodes] */
} search;

/* Where a branch is best grafted. */
typedef struct place {
    int32_t node; /* onto the edge above this node */
    bool flipped;
    int32_t cost, cost_here; /* by how many bits the tree grows; the same for the edge asked about */
} place;

static uint64_t *down_of(const search *s, int32_t node) { return s->down + (size_t)node * 2 * s->words; }
static uint64_t *up_of(const search *s, int32_t node) { return s->up + (size_t)node * 2 * s->words; }

static int32_t sibling_of(const search *s, int32_t node) {
    const int32_t *children = s->child[s->parent[node]];
    return children[children[0] == node];
}

static void replace_child(search *s, int32_t parent, int32_t old, int32_t new) {
    s->child[parent][s->child[parent][1] == old] = new;
    s->parent[new] = parent;
}

/* Sets from `node` to the root, as far as they change. */
static void update(search *s, int32_t node) {
    while (node != ROOT &&
           s->kernel->combine(down_of(s, s->child[node][0]), down_of(s, s->child[node][1]), down_of(s, node), s->words))
        node = s->parent[node];
}

/* Grafts a branch onto the edge above `onto`, with `joint` as the new node there. */
static void graft(search *s, int32_t branch, int32_t joint, int32_t onto) {
    replace_child(s, s->parent[onto], onto, joint);
    s->child[joint][0] = onto;
    s->child[joint][1] = branch;
    s->parent[onto] = s->parent[branch] = joint;
    s->kernel->combine(down_of(s, onto), down_of(s, branch), down_of(s, joint), s->words);
    update(s, s->parent[joint]);
}

/* Takes a branch off, its parent with it, and returns the node below the edge that is then whole again. */
static int32_t prune(search *s, int32_t branch) {
    const int32_t joint = s->parent[branch], sibling = sibling_of(s, branch);
    replace_child(s, s->parent[joint], joint, sibling);
    update(s, s->parent[sibling]);
    return sibling;
}

/* Replaces every filter of a branch by its complement. */
static void flip(search *s, int32_t branch) {
    size_t depth = 0;
    s->stack[depth++] = branch;
    while (depth) {
        const int32_t node = s->stack[--depth];
        uint64_t *low = down_of(s, node), *high = low + s->words;
        for (size_t w = 0; w < s->words; w++) {
            const uint64_t old = low[w];
            low[w] = ~high[w] & s->used[w];
            high[w] = ~old & s->used[w];
        }
        if ((size_t)node < s->count) {
            s->flipped[node] ^= 1;
            continue;
        }
        s->stack[depth++] = s->child[node][0];
        s->stack[depth++] = s->child[node][1];
    }
}

/* The best place for a branch that is not in the tree; the first of equals, its own orientation first. */
static place best_place(search *s, int32_t branch, int32_t here) {
    place best = {NONE, false, INT32_MAX, INT32_MAX};
    size_t depth = 0;
    s->stack[depth++] = s->child[ROOT][0];
    while (depth) {
        const int32_t node = s->stack[--depth], parent = s->parent[node];
        int32_t cost[2];
        s->kernel->edge(parent == ROOT ? down_of(s, ROOT) : up_of(s, parent),
                        parent == ROOT ? s->any : down_of(s, sibling_of(s, node)), down_of(s, node), down_of(s, branch),
                        up_of(s, node), s->words, cost);
        cost[1] -= s->beyond;
        for (int flipped = 0; flipped <= s->complement; flipped++)
            if (cost[flipped] < best.cost) {
                best.node = node;
                best.flipped = flipped;
                best.cost = cost[flipped];
            }
        if (node == here)
            best.cost_here = cost[0];
        if ((size_t)node >= s->count) {
            s->stack[depth++] = s->child[node][1];
            s->stack[depth++] = s->child[node][0];
        }
    }
    return best;
}

static void insert(search *s, int32_t branch, int32_t joint) {
    const place best = best_place(s, branch, NONE);
    if (best.flipped)
        flip(s, branch);
    graft(s, branch, joint, best.node);
}

/* Tries every branch in every place; returns by how many bits the tree shrank. */
static int64_t sweep(search *s) {
    int64_t gain = 0;
    for (int32_t branch = 1; (size_t)branch < s->nodes; branch++) {
        const int32_t joint = s->parent[branch];
        if (joint == ROOT)
            continue;
        const int32_t here = prune(s, branch);
        const place best = best_place(s, branch, here);
        if (best.cost == best.cost_here) {
            graft(s, branch, joint, here);
            continue;
        }
        if (best.flipped)
            flip(s, branch);
        graft(s, branch, joint, best.node);
        gain += best.cost_here - best.cost;
    }
    return gain;
}

/* In how many bits two sets have no value in common. */
static int64_t conflicts(const search *s, const uint64_t *a, const uint64_t *b) {
    int64_t count = 0;
    for (size_t w = 0; w < s->words; w++)
        count += popcount((a[w] & ~b[s->words + w]) | (b[w] & ~a[s->words + w]));
    return count;
}

/* The differing bits along the tree: one wherever the sets of two children, or of the root and its child, conflict. */
static int64_t tree_bits(const search *s) {
    int64_t bits = conflicts(s, down_of(s, ROOT), down_of(s, s->child[ROOT][0]));
    for (size_t node = s->count; node < s->nodes; node++)
        bits += conflicts(s, down_of(s, s->child[node][0]), down_of(s, s->child[node][1]));
    return bits;
}

/* Loads the filters into the sets of the root and the leaves, and fills the constant rows. */
static void load_filters(search *s, const uint8_t *filters, size_t length) {
    const size_t set = 2 * s->words;
    rows_load(filters, s->count, length, s->down, s->words, set);
    for (size_t leaf = 0; leaf < s->count; leaf++)
        memcpy(s->down + leaf * set + s->words, s->down + leaf * set, s->words * sizeof *s->down);
    memset(s->any, 0, s->words * sizeof *s->any);
    memset(s->any + s->words, 0xff, s->words * sizeof *s->any);
    for (size_t w = 0; w < s->words; w++)
        s->used[w] = 64 * w >= length ? 0 : low_bits(length - 64 * w);
    s->beyond = (int32_t)(64 * s->words - length);
}

/* The first tree: filters in their order, each where it costs least. */
static void build(search *s) {
    s->child[ROOT][0] = 1;
    s->parent[1] = ROOT;
    for (size_t leaf = 2; leaf < s->count; leaf++)
        insert(s, (int32_t)leaf, (int32_t)(s->count + leaf - 2));
}

bnncc_status bnncc_steiner_tree(const bnncc_steiner_params *params, const uint8_t *filters, int32_t *parent,
                                uint8_t *flipped, int64_t *bits, bnncc_isa isa, bnncc_error *error) {
    bnncc_status status;
    bool overflow = false;
    if (!params || !filters || !parent || !flipped || !bits)
        return fail(error, BNNCC_INVALID_ARGUMENT, "an argument of bnncc_steiner_tree is NULL");
    if (check_size("count", params->count, 3, error) || check_filter_length(params->length, error) ||
        check_size("sweeps", params->sweeps, 0, error))
        return BNNCC_INVALID_ARGUMENT;
    if (params->count > SIZE_LIMIT / 2)
        return fail(error, BNNCC_INVALID_ARGUMENT, "too many filters for a tree");
    if ((status = bnncc_isa_resolve(isa, &isa, error)))
        return status;
    search s = {.kernel = row_kernel_for(isa), .count = (size_t)params->count, .complement = params->complement != 0};
    s.nodes = 2 * s.count - 2;
    s.words = row_words((size_t)params->length);
    const size_t sets = times(times(s.nodes, 2, &overflow), s.words, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the tree's size overflows");
    s.parent = parent;
    s.flipped = flipped;
    s.child = allocate(s.nodes, sizeof *s.child);
    s.stack = allocate(s.nodes, sizeof *s.stack);
    s.down = allocate(sets, sizeof *s.down);
    s.up = allocate(sets, sizeof *s.up);
    s.any = allocate(2 * s.words, sizeof *s.any);
    s.used = allocate(s.words, sizeof *s.used);
    if (s.child && s.stack && s.down && s.up && s.any && s.used) {
        memset(s.parent, 0xff, s.nodes * sizeof *s.parent);
        memset(s.child, 0xff, s.nodes * sizeof *s.child);
        memset(s.flipped, 0, s.count);
        memset(s.down, 0, sets * sizeof *s.down);
        load_filters(&s, filters, (size_t)params->length);
        build(&s);
        for (int32_t i = 0; i < params->sweeps && sweep(&s) > 0; i++)
            ;
        *bits = tree_bits(&s);
    } else
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a tree of %zu nodes", s.nodes);
    free(s.child);
    free(s.stack);
    free(s.down);
    free(s.up);
    free(s.any);
    free(s.used);
    return status;
}
