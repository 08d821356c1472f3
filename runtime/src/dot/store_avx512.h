/* From counters in 64-bit lanes (lanes = filters) to dots[filter][window]: shared by the AVX-512 kernels. */
#ifndef BNNCC_STORE_AVX512_H
#define BNNCC_STORE_AVX512_H

#include "dot.h"

#include <immintrin.h>

#define STORE_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"), always_inline))

/* One window, eight filters. */
STORE_TARGET static inline void store_window(__m512i differing, int32_t length, int32_t *dots) {
    int32_t counts[8];
    _mm256_storeu_si256((__m256i *)counts, _mm512_cvtepi64_epi32(differing));
    for (size_t f = 0; f < 8; f++)
        dots[f * DOT_TILE] = length - 2 * counts[f];
}

/* Four windows, eight filters. A count fits half a lane, so the counts of two windows are put side by side in a lane,
 * in the order in which they are stored; the lanes of two such registers, interleaved, are four windows of a filter. */
STORE_TARGET static inline void store_four_windows(const __m512i *differing, int32_t length, int32_t *dots) {
    const __m512i all = _mm512_set1_epi32(length);
    __m512i first = _mm512_or_si512(differing[0], _mm512_slli_epi64(differing[1], 32));
    __m512i second = _mm512_or_si512(differing[2], _mm512_slli_epi64(differing[3], 32));
    first = _mm512_sub_epi32(all, _mm512_slli_epi32(first, 1));
    second = _mm512_sub_epi32(all, _mm512_slli_epi32(second, 1));
    const __m512i even = _mm512_unpacklo_epi64(first, second), odd = _mm512_unpackhi_epi64(first, second);
    _mm_storeu_si128((__m128i *)(dots + 0 * DOT_TILE), _mm512_castsi512_si128(even));
    _mm_storeu_si128((__m128i *)(dots + 1 * DOT_TILE), _mm512_castsi512_si128(odd));
    _mm_storeu_si128((__m128i *)(dots + 2 * DOT_TILE), _mm512_extracti64x2_epi64(even, 1));
    _mm_storeu_si128((__m128i *)(dots + 3 * DOT_TILE), _mm512_extracti64x2_epi64(odd, 1));
    _mm_storeu_si128((__m128i *)(dots + 4 * DOT_TILE), _mm512_extracti64x2_epi64(even, 2));
    _mm_storeu_si128((__m128i *)(dots + 5 * DOT_TILE), _mm512_extracti64x2_epi64(odd, 2));
    _mm_storeu_si128((__m128i *)(dots + 6 * DOT_TILE), _mm512_extracti64x2_epi64(even, 3));
    _mm_storeu_si128((__m128i *)(dots + 7 * DOT_TILE), _mm512_extracti64x2_epi64(odd, 3));
}

#endif /* BNNCC_STORE_AVX512_H */
