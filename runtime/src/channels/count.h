/* The counting loop of the channel kernel, for any vector type: to be included by one file per instruction set, after
 * its planes/vector_*.h. planes/adders.h says what that defines.
 *
 * The planes that both windows of a pair count are counted once, and each window goes on from there. */
#include "planes/adders.h"

#define FETCH(n) FETCH_INDICES(n, unit_, index)
#define PLANE(k, n) plane(base + 8 * INDEX(unit_, k), n)

#define LOAD_COUNTER(k, c)                                                                                             \
    if (L > (k))                                                                                                       \
        c = load(both + (k) * sizeof(V));
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), c);
/* One step of start + 2 * count. */
#define ADD_START(k, c)                                                                                                \
    if (L > (k)) {                                                                                                     \
        const V start_ = load(start + ((k) + 1) * sizeof(V)), sum_ = xor3(c, start_, carry);                           \
        carry = majority(c, start_, carry);                                                                            \
        c = sum_;                                                                                                      \
    }
/* One step of the sum of that and `add`, of which only the carries and the highest bit count. */
#define ADD_BIT(k) all_lanes(((uint32_t)pair->add[window] >> (k)) & 1)
#define COMPARE(k, c)                                                                                                  \
    if (L - 1 > (k))                                                                                                   \
        carry = majority(carry, c, ADD_BIT((k) + 1));                                                                  \
    if (L - 1 == (k))                                                                                                  \
        carry = xor3(carry, c, ADD_BIT((k) + 1));

#define ADD_LIST(list)                                                                                                 \
    const uint16_t *index = pair->lists[list];                                                                         \
    V wait16 = {0}, wait32 = {0}, x;                                                                                   \
    unsigned waiting = 0;                                                                                              \
    for (size_t unit = pair->units[list]; unit > 0; unit--) {                                                          \
        UNIT_16(0, 0, x);                                                                                              \
        CARRY_16(x);                                                                                                   \
    }                                                                                                                  \
    FINISH_CARRIES

TARGET __attribute__((always_inline)) static inline V all_lanes(uint32_t bit) {
    const uint64_t word = -(uint64_t)bit;
    return spread(&word);
}

TARGET __attribute__((always_inline)) static inline void count_pair(const channels_pair *pair, const int L) {
    const uint8_t *base = pair->weights;
    _Alignas(64) uint8_t both[16 * sizeof(V)];
    {
        FOR_COUNTERS(DECLARE)
        ADD_LIST(LIST_BOTH)
        uint8_t *to = both;
        FOR_COUNTERS(STORE_COUNTER)
    }
    for (size_t window = 0; window < 2; window++) {
        const uint8_t *start = pair->start[window];
        if (!start)
            continue;
        FOR_COUNTERS(DECLARE)
        FOR_COUNTERS(LOAD_COUNTER)
        ADD_LIST(LIST_FIRST + window)
        V carry = {0};
        FOR_COUNTERS(ADD_START)
        const V lowest = load(start);
        if (pair->to[window]) {
            uint8_t *to = pair->to[window];
            store(to, lowest);
            to += sizeof(V);
            FOR_COUNTERS(STORE_COUNTER)
        }
        if (pair->signs[window]) {
            carry = and2(lowest, ADD_BIT(0));
            FOR_COUNTERS(COMPARE)
            store(pair->signs[window], invert(carry));
        }
    }
}

#define COUNT(L)                                                                                                       \
    case L:                                                                                                            \
        count_pair(pair, L);                                                                                           \
        break;
TARGET static void count(const channels_pair *pair) {
    switch (pair->counters) { FOR_COUNTER_NUMBERS(COUNT) }
}

TARGET static void add(const uint8_t *addend, size_t planes, uint8_t *sum) {
    V carry = {0};
    for (size_t k = 0; k < planes; k++, addend += sizeof(V), sum += sizeof(V)) {
        const V a = load(addend), b = load(sum), out = majority(a, b, carry);
        store(sum, xor3(a, b, carry));
        carry = out;
    }
}
