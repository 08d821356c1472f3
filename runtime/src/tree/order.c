/* Orders of a tree's nodes: from the leaves up, and the one in which few sets of counters are alive. */
#include "../checked.h"
#include "tree.h"

#include <stdlib.h>
#include <string.h>

bool tree_bottom_up(const int32_t *parents, size_t nodes, int32_t *children, int32_t *order) {
    size_t ready = 0;
    memset(children, 0, nodes * sizeof *children);
    for (size_t node = 0; node < nodes; node++) {
        if (parents[node] < NO_PARENT || parents[node] >= (int64_t)nodes)
            return false;
        if (parents[node] != NO_PARENT)
            children[parents[node]]++;
    }
    for (size_t node = 0; node < nodes; node++)
        if (children[node] == 0)
            order[ready++] = (int32_t)node;
    for (size_t done = 0; done < ready; done++) {
        const int32_t above = parents[order[done]];
        if (above != NO_PARENT && --children[above] == 0)
            order[ready++] = above;
    }
    return ready == nodes;
}

/* What decides when a node is counted among its siblings. */
typedef struct branch {
    int32_t slots, size; /* sets of counters that its branch needs; nodes of the branch */
    int32_t node;
} branch;

static int compare_branches(const void *first, const void *second) {
    const branch *a = first, *b = second;
    if (a->slots != b->slots)
        return a->slots < b->slots ? -1 : 1;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return a->node < b->node ? -1 : a->node > b->node;
}

typedef struct schedule {
    size_t nodes;
    const int32_t *parents;
    int32_t *bottom_up; /* [nodes] */
    size_t *begin;      /* [nodes + 2]: where the branches below a node begin; those without a parent come last */
    size_t *end;        /* [nodes + 1]: behind those that are there already */
    branch *branches;   /* [nodes] */
    int32_t *stack;     /* [nodes] */
} schedule;

/* Where in begin and end the siblings of a node are: the nodes without a parent are siblings too. */
static size_t family(const schedule *s, size_t node) {
    return s->parents[node] == NO_PARENT ? s->nodes : (size_t)s->parents[node];
}

/* The branches below every node, in the order in which they are to be counted. */
static void sort_branches(schedule *s) {
    memset(s->begin, 0, (s->nodes + 2) * sizeof *s->begin);
    for (size_t node = 0; node < s->nodes; node++)
        s->begin[family(s, node) + 1]++;
    for (size_t parent = 0; parent <= s->nodes; parent++)
        s->begin[parent + 1] += s->begin[parent];
    memcpy(s->end, s->begin, (s->nodes + 1) * sizeof *s->end);
    for (size_t i = 0; i < s->nodes; i++) {
        const size_t node = (size_t)s->bottom_up[i], begin = s->begin[node], end = s->end[node];
        branch here = {.slots = 1, .size = 1, .node = (int32_t)node};
        qsort(s->branches + begin, end - begin, sizeof *s->branches, compare_branches);
        for (size_t child = begin; child < end; child++) {
            /* The counters must live until the last child is counted, which may take their place. */
            const int32_t slots = s->branches[child].slots + (child + 1 < end);
            here.slots = slots > here.slots ? slots : here.slots;
            here.size += s->branches[child].size;
        }
        s->branches[s->end[family(s, node)]++] = here;
    }
    qsort(s->branches + s->begin[s->nodes], s->end[s->nodes] - s->begin[s->nodes], sizeof *s->branches,
          compare_branches);
}

/* Depth first along the sorted branches. */
static int32_t number_slots(schedule *s, int32_t *order, int32_t *slots) {
    int32_t slot_count = 0;
    size_t waiting = 0;
    for (size_t i = s->end[s->nodes]; i-- > s->begin[s->nodes];) {
        slots[s->branches[i].node] = 0;
        s->stack[waiting++] = s->branches[i].node;
    }
    while (waiting) {
        const int32_t node = s->stack[--waiting];
        const size_t begin = s->begin[node], end = s->end[node];
        *order++ = node;
        slot_count = slots[node] >= slot_count ? slots[node] + 1 : slot_count;
        for (size_t child = end; child-- > begin;) {
            slots[s->branches[child].node] = slots[node] + (child + 1 < end);
            s->stack[waiting++] = s->branches[child].node;
        }
    }
    return slot_count;
}

bnncc_status bnncc_tree_schedule(const int32_t *parents, int64_t node_count, int32_t *order, int32_t *slots,
                                 int32_t *slot_count, bnncc_error *error) {
    if (check_size("node_count", node_count, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    if (!parents || !order || !slots || !slot_count)
        return fail(error, BNNCC_INVALID_ARGUMENT, "an argument of bnncc_tree_schedule is NULL");
    schedule s = {.nodes = (size_t)node_count, .parents = parents};
    s.bottom_up = allocate(s.nodes, sizeof *s.bottom_up);
    s.begin = allocate(s.nodes + 2, sizeof *s.begin);
    s.end = allocate(s.nodes + 1, sizeof *s.end);
    s.branches = allocate(s.nodes, sizeof *s.branches);
    s.stack = allocate(s.nodes, sizeof *s.stack);
    bnncc_status status = BNNCC_OK;
    if (!s.bottom_up || !s.begin || !s.end || !s.branches || !s.stack)
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a tree of %zu nodes", s.nodes);
    else if (!tree_bottom_up(parents, s.nodes, s.stack, s.bottom_up))
        status = fail(error, BNNCC_INVALID_ARGUMENT, "the parents are not those of a tree");
    else {
        sort_branches(&s);
        *slot_count = number_slots(&s, order, slots);
    }
    free(s.bottom_up);
    free(s.begin);
    free(s.end);
    free(s.branches);
    free(s.stack);
    return status;
}
