/* The counting loop of the bit-plane kernel, for any vector type: to be included by one file per instruction set, after
 * its vector_*.h. adders.h says what that defines.
 *
 * A node's planes come in groups of eight: those to subtract, then those to add. To subtract a plane s from counters is
 * to add ~s, since -s = ~s - 1 for a bit s, and to remember that one must be taken off: program.c keeps that in
 * the node's constants. */
#include "adders.h"

#define FETCH(n) FETCH_INDICES(n, unit_, index)
#define PLANE(k, n) plane(base + 8 * INDEX(unit_, k), n)

#define LOAD_COUNTER(k, c)                                                                                             \
    if (L > (k))                                                                                                       \
        c = load(from + (k) * sizeof(V));
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), c);

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
            value = select(load(block->masks + i * sizeof(V)), spread(word + block->mask_class[i]), value);
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
        if (node->output >= 0 && block->counted) {
            uint8_t *counted = block->counted + (size_t)node->output * (counter_bytes + sizeof(V));
            store(counted, load(block->parity));
            to = counted + sizeof(V);
            FOR_COUNTERS(STORE_COUNTER)
        }
        if (node->output >= 0 && block->want_signs) {
            const uint64_t *constants = block->constants + (size_t)node->output * block->program->constant_words;
            V carry = or2(load(block->parity), constant_at(block, constants, mixed));
            FOR_COUNTERS(COMPARE)
            store(block->signs + (size_t)node->output * block->signs_pitch, carry);
        }
    }
}

/* The root's counters, of the filter of zeros: minus half the window's ones, rounded down, less one; and the
 * complement of what the rounding lost. The window's planes are listed before the nodes' (window_16 units). */
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
    uint8_t *to = block->counters - sizeof(V);
#define STORE_ROOT(k, c)                                                                                               \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), invert(c));
    store(block->parity, invert(c0));
    /* Shifted by one plane: c1 is the root's lowest. Its highest, of which the sum has none, is ~0. */
    FOR_COUNTERS(STORE_ROOT)
    store(block->parity, invert(c0));
    store(to + L * sizeof(V), invert(xor2(c0, c0)));
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
