/* The counting loop of the channel kernel, for any vector type: to be included by one file per instruction set, after
 * its planes/vector_*.h. planes/adders.h says what that defines. */
#include "planes/adders.h"

#define FETCH(n)                                                                                                       \
    const uint32_t *unit_ = index;                                                                                     \
    index += (n)
#define PLANE(k, n) plane(base + unit_[k], n)

#define LOAD_COUNTER(k, c)                                                                                             \
    if (L > (k))                                                                                                       \
        c = load(window->start + ((k) + 1) * sizeof(V));
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store(window->to + ((k) + 1) * sizeof(V), c);
/* One step of the sum of the counters and `add`, of which only the carries and the highest bit count. */
#define ADD_BIT(k) all_lanes(((uint32_t)window->add >> (k)) & 1)
#define COMPARE(k, c)                                                                                                  \
    if (L - 1 > (k))                                                                                                   \
        carry = majority(carry, c, ADD_BIT((k) + 1));                                                                  \
    if (L - 1 == (k))                                                                                                  \
        carry = xor3(carry, c, ADD_BIT((k) + 1));

TARGET __attribute__((always_inline)) static inline V all_lanes(uint32_t bit) {
    const uint64_t word = -(uint64_t)bit;
    return spread(&word);
}

TARGET __attribute__((always_inline)) static inline void count_window(const channels_count *window, const int L) {
    const uint8_t *base = window->weights;
    const uint32_t *index = window->list;
    FOR_COUNTERS(DECLARE)
    FOR_COUNTERS(LOAD_COUNTER)
    V wait16 = {0}, wait32 = {0}, x;
    unsigned waiting = 0;
    for (size_t i = window->units; i > 0; i--) {
        UNIT_16(0, 0, x);
        CARRY_16(x);
    }
    FINISH_CARRIES
    const V lowest = load(window->start);
    if (window->to) {
        store(window->to, lowest);
        FOR_COUNTERS(STORE_COUNTER)
    }
    if (window->signs) {
        V carry = and2(lowest, ADD_BIT(0));
        FOR_COUNTERS(COMPARE)
        store(window->signs, invert(carry));
    }
}

#define COUNT(L)                                                                                                       \
    case L:                                                                                                            \
        count_window(window, L);                                                                                       \
        break;
TARGET static void count(const channels_count *window) {
    switch (window->counters) {
        COUNT(8)
        COUNT(9)
        COUNT(10)
        COUNT(11)
        COUNT(12)
        COUNT(13)
        COUNT(16)
    }
}

TARGET static void add(const uint8_t *addend, size_t planes, uint8_t *sum) {
    V carry = {0};
    for (size_t k = 0; k < planes; k++, addend += sizeof(V), sum += sizeof(V)) {
        const V a = load(addend), b = load(sum), out = majority(a, b, carry);
        store(sum, xor3(a, b, carry));
        carry = out;
    }
}
