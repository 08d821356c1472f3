/* Vertical counters of 256 lanes, two for each in the halves of a 512-bit vector (AVX-512): planes are counted two at a
 * time, and the halves' sum is the count. See adders.h and count.h. */
#ifndef BNNCC_VECTOR_AVX512_HALVES_H
#define BNNCC_VECTOR_AVX512_HALVES_H

#include "vector_avx512.h"

#undef FETCHES_WORDS /* with two planes to load for each, loading their numbers one by one takes 3 % less */

#define HALVES 2
#define load_lanes(p) _mm512_broadcast_i64x4(_mm256_load_si256((const __m256i *)(const void *)(p)))
#define store_lanes(p, v) _mm256_store_si256((__m256i *)(void *)(p), _mm512_castsi512_si256(v))
#define low_half(v) _mm512_maskz_mov_epi64(0x0f, v)
#define swap_halves(v) _mm512_shuffle_i64x2(v, v, 0x4e)
#define two_planes(p, q)                                                                                               \
    _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256((const __m256i *)(const void *)(p))),                  \
                       _mm256_load_si256((const __m256i *)(const void *)(q)), 1)

#endif /* BNNCC_VECTOR_AVX512_HALVES_H */
