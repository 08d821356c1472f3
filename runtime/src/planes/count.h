/* The counting loop of the bit-plane kernel, for any vector type: to be included by one file per instruction set, after
 * its vector_*.h. adders.h says what that defines.
 *
 * A node's planes (pairs of them in halves) come in groups of eight: those to subtract, then those to add. To subtract
 * a plane s from counters is to add ~s, since -s = ~s - 1 for a bit s, and to remember that one must be taken off:
 * program.c keeps that in the node's constants. */
#include "adders.h"

#ifdef HALVES /* every vector has two counts of half as many lanes; their sum is that of all planes */
#define FETCH(n) FETCH_INDICES(2 * (n), unit_, index)
#define PLANE(k, n) two_planes(base + 8 * INDEX(unit_, 2 * (k)), base + 8 * INDEX(unit_, 2 * (k) + 1))
#define JOIN(k, c)                                                                                                     \
    if (L > (k)) {                                                                                                     \
        const V other = swap_halves(c), sum = xor3(c, other, carry);                                                   \
        carry = majority(c, other, carry);                                                                             \
        c = sum;                                                                                                       \
    }
#define JOIN_HALVES                                                                                                    \
    {                                                                                                                  \
        V carry = {0};                                                                                                 \
        FOR_COUNTERS(JOIN)                                                                                             \
    }
#else
#define HALVES 1
#define FETCH(n) FETCH_INDICES(n, unit_, index)
#define PLANE(k, n) plane(base + 8 * INDEX(unit_, k), n)
#define JOIN_HALVES
#define load_lanes load
#define store_lanes store
#define low_half(v) (v)
#endif
#define LANE_BYTES (sizeof(V) / HALVES)

#define LOAD_COUNTER(k, c)                                                                                             \
    if (L > (k))                                                                                                       \
        c = load(from + (k) * sizeof(V));
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), c);
#define STORE_COUNTED(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store_lanes(counted + ((k) + 1) * LANE_BYTES, c);

/* One step of the sum of the counters and the node's constant, of which only the carries and the highest bit count. */
#define CONSTANT(k) constant_at(block, constants + 1 + (k), mixed)
#define COMPARE(k, c)                                                                                                  \
    if (L - 1 > (k))                                                                                                   \
        carry = majority(carry, c, CONSTANT(k));                                                                       \
    if (L - 1 == (k))                                                                                                  \
        carry = xor3(carry, c, CONSTANT(k));

/* A word of a node's constants in all lanes: that of each lane's class of rows, where a block has rows of several. */
TARGET __attribute__((always_inline)) static inline V constant_at(const planes_block *block, const uint64_t *word,
                                                                  const bool mixed) {
    V value = spread(word);
    if (mixed)
        for (size_t i = 0; i < block->mask_count; i++)
            value = select(load_lanes(block->masks + i * LANE_BYTES), spread(word + block->mask_class[i]), value);
    return value;
}

TARGET __attribute__((always_inline)) static inline void count_nodes(const planes_block *block, const int L,
                                                                     const bool mixed) {
    const uint8_t *base = block->planes;
    const uint16_t *index = block->program->index;
    uint8_t *counters = block->counters;
    const size_t counter_bytes = (size_t)L * sizeof(V);
    for (const planes_node *node = block->program->nodes, *end = node + block->program->node_count; node < end;
         node++) {
        const uint8_t *from = counters + node->from * counter_bytes;
        uint8_t *to = counters + node->to * counter_bytes;
        FOR_COUNTERS(DECLARE)
        FOR_COUNTERS(LOAD_COUNTER)
        V wait16 = {0}, wait32 = {0}, x;
        unsigned waiting = 0;
        for (unsigned i = node->subtract_16; i > 0; i--) {
            UNIT_16(1, 1, x);
            CARRY_16(x);
        }
        if (node->mixed_16) {
            UNIT_16(1, 0, x);
            CARRY_16(x);
        }
        for (unsigned i = node->add_16; i > 0; i--) {
            UNIT_16(0, 0, x);
            CARRY_16(x);
        }
        if (node->tail == 1) {
            UNIT_8(0, x);
            CARRY_16(x);
        } else if (node->tail == 2) {
            UNIT_8(1, x);
            CARRY_16(x);
        }
        FINISH_CARRIES
        if (node->keep) {
            FOR_COUNTERS(STORE_COUNTER)
        }
        if (node->output < 0)
            continue;
        JOIN_HALVES
        if (block->counted) {
            uint8_t *counted = block->counted + (size_t)node->output * (1 + (size_t)L) * LANE_BYTES;
            store_lanes(counted, load_lanes(block->parity));
            FOR_COUNTERS(STORE_COUNTED)
        }
        if (block->want_signs) {
            const uint64_t *constants = block->constants + (size_t)node->output * block->program->constant_words;
            V carry = or2(load_lanes(block->parity), constant_at(block, constants, mixed));
            FOR_COUNTERS(COMPARE)
            store_lanes(block->signs + (size_t)node->output * block->signs_pitch, carry);
        }
    }
}

/* The root's counters, of the filter of zeros: minus half the window's ones, rounded down, less one; and the
 * complement of what the rounding lost. The window's planes are listed before the nodes' (window_16 units). In halves
 * the lower one has that and the upper one zeros, since nodes add to both, and outputs are their sum. */
TARGET __attribute__((always_inline)) static inline void count_window(const planes_block *block, const int L) {
    const uint8_t *base = block->planes;
    const uint16_t *index = block->program->window;
    FOR_COUNTERS(DECLARE)
    V wait16 = {0}, wait32 = {0}, x;
    unsigned waiting = 0;
    for (size_t i = block->program->window_16; i > 0; i--) {
        UNIT_16(0, 0, x);
        CARRY_16(x);
    }
    FINISH_CARRIES
    JOIN_HALVES
    uint8_t *to = block->counters - sizeof(V);
#define STORE_ROOT(k, c)                                                                                               \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), low_half(invert(c)));
    /* Shifted by one plane: c1 is the root's lowest. Its highest, of which the sum has none, is ~0. */
    FOR_COUNTERS(STORE_ROOT)
    store_lanes(block->parity, invert(c0));
    store(to + L * sizeof(V), low_half(invert(xor2(c0, c0))));
}

#define COUNT(L)                                                                                                       \
    case L:                                                                                                            \
        count_window(block, L);                                                                                        \
        if (block->mask_count)                                                                                         \
            count_nodes(block, L, true);                                                                               \
        else                                                                                                           \
            count_nodes(block, L, false);                                                                              \
        break;
TARGET void COUNT_FUNCTION(const planes_block *block) {
    switch (block->program->counter_planes) { FOR_COUNTER_NUMBERS(COUNT) }
}
