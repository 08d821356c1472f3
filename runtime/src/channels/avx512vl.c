/* The channel kernel's steps for AVX-512 with blocks of 256 filters, for layers that have no more: the two windows of a
 * pair are the halves of a 512-bit vector. */
#include "steps.h"

#if defined(__x86_64__)
#include "planes/transpose_avx512.h"
#include "planes/vector_avx512.h"

#include "planes/adders.h"

enum { HALF_BYTES = 32 };

TARGET __attribute__((always_inline)) static inline V halves(const uint8_t *low, const uint8_t *high) {
    const __m512i v = _mm512_castsi256_si512(_mm256_load_si256((const __m256i *)(const void *)low));
    return _mm512_inserti64x4(v, _mm256_load_si256((const __m256i *)(const void *)high), 1);
}

TARGET __attribute__((always_inline)) static inline void store_halves(V v, uint8_t *low, uint8_t *high) {
    _mm256_store_si256((__m256i *)(void *)low, _mm512_castsi512_si256(v));
    if (high)
        _mm256_store_si256((__m256i *)(void *)high, _mm512_extracti64x4_epi64(v, 1));
}

#define START_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        c = halves(pair->start[0] + ((k) + 1) * HALF_BYTES, start + ((k) + 1) * HALF_BYTES);
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store_halves(c, pair->to[0] + ((k) + 1) * HALF_BYTES, to ? to + ((k) + 1) * HALF_BYTES : NULL);
/* Bit k of `add`, each window's in all lanes of its half. */
#define ADD_BIT(k) _mm512_srai_epi64(_mm512_slli_epi64(add_words, 63 - (k)), 63)
#define COMPARE(k, c)                                                                                                  \
    if (L - 1 > (k))                                                                                                   \
        carry = majority(carry, c, ADD_BIT((k) + 1));                                                                  \
    if (L - 1 == (k))                                                                                                  \
        carry = xor3(carry, c, ADD_BIT((k) + 1));

TARGET __attribute__((always_inline)) static inline void count_pair(const channels_pair *pair, const int L) {
    const uint8_t *base = pair->weights, *start = pair->start[pair->start[1] ? 1 : 0];
    FOR_COUNTERS(DECLARE)
    FOR_COUNTERS(START_COUNTER)
    V wait16 = {0}, wait32 = {0}, x;
    unsigned waiting = 0;
    const uint16_t *index = pair->lists[LIST_BOTH];
#define FETCH(n) FETCH_INDICES(n, unit_, index)
#define PLANE(k, n)                                                                                                    \
    _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *)(const void *)(base + 8 * INDEX(unit_, k))))
    for (size_t unit = pair->units[LIST_BOTH]; unit > 0; unit--) {
        UNIT_16(0, 0, x);
        CARRY_16(x);
    }
#undef FETCH
#undef PLANE
    index = pair->lists[LIST_FIRST];
    const uint16_t *second = pair->lists[LIST_SECOND];
#define FETCH(n)                                                                                                       \
    FETCH_INDICES(n, unit_, index);                                                                                    \
    FETCH_INDICES(n, second_unit_, second)
#define PLANE(k, n) halves(base + 8 * INDEX(unit_, k), base + 8 * INDEX(second_unit_, k))
    const size_t more = pair->units[LIST_FIRST] > pair->units[LIST_SECOND] ? LIST_FIRST : LIST_SECOND;
    for (size_t unit = pair->units[more]; unit > 0; unit--) {
        UNIT_16(0, 0, x);
        CARRY_16(x);
    }
    FINISH_CARRIES
    const V lowest = halves(pair->start[0], start);
    if (pair->to[0]) {
        uint8_t *to = pair->to[1];
        store_halves(lowest, pair->to[0], to);
        FOR_COUNTERS(STORE_COUNTER)
    }
    if (pair->signs[0]) {
        const V add_words = _mm512_inserti64x4(_mm512_set1_epi64(pair->add[0]), _mm256_set1_epi64x(pair->add[1]), 1);
        V carry = and2(lowest, ADD_BIT(0));
        FOR_COUNTERS(COMPARE)
        store_halves(invert(carry), pair->signs[0], pair->signs[1]);
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
    __m256i carry = _mm256_setzero_si256();
    for (size_t k = 0; k < planes; k++, addend += HALF_BYTES, sum += HALF_BYTES) {
        const __m256i a = _mm256_load_si256((const __m256i *)(const void *)addend);
        const __m256i b = _mm256_load_si256((const __m256i *)(const void *)sum);
        _mm256_store_si256((__m256i *)(void *)sum, _mm256_ternarylogic_epi64(a, b, carry, 0x96));
        carry = _mm256_ternarylogic_epi64(a, b, carry, 0xe8);
    }
}

TARGET static void split(const uint8_t *vectors, size_t count, uint64_t (*words)[64]) {
    for (size_t first = 0; first < count; first += 8, vectors += 8 * HALF_BYTES) {
        __m512i rows[8];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            rows[i] =
                _mm512_castsi256_si512(_mm256_load_si256((const __m256i *)(const void *)(vectors + HALF_BYTES * i)));
        transpose_8x8_words(rows);
#pragma GCC unroll 4
        for (size_t w = 0; w < HALF_BYTES / 8; w++)
            _mm512_storeu_si512((void *)(words[w] + first), rows[w]);
    }
}

const channels_steps channels_avx512vl = {
    HALF_BYTES,
    channels_majority_avx512,
    channels_list_avx512,
    channels_join_avx512,
    count,
    add,
    channels_numbers_256_avx512,
    channels_turn_256_avx512,
    split,
};
const channels_steps channels_avx512vl_bytes = {
    HALF_BYTES,
    channels_majority_avx512,
    channels_list_vbmi2,
    channels_join_avx512,
    count,
    add,
    channels_numbers_256_gfni,
    channels_turn_256_avx512,
    split,
};
#endif
