/* Vertical counters become numbers, a lane each, with AVX-512BW or, where BYTES_BY_GFNI is defined before, with GFNI,
 * too. */
#ifndef BNNCC_BYTES_OF_LANES_AVX512_H
#define BNNCC_BYTES_OF_LANES_AVX512_H

#include "checked.h"
#include "signs.h"

#include <immintrin.h>

#ifdef BYTES_BY_GFNI
#define BYTES_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,gfni")))
#define BYTE_OF_PLANE(i) (7 - (i)) /* the instruction takes a matrix's first row from the highest byte */
#else
#define BYTES_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define BYTE_OF_PLANE(i) (i)
#endif
#define BYTES_INLINE BYTES_TARGET __attribute__((always_inline)) static inline

/* Eight lanes of each of eight planes, a byte each, in 64 bits become eight bytes, one a lane, the first plane in the
 * lowest bit. */
BYTES_INLINE __m512i transpose_bits(__m512i x) {
#ifdef BYTES_BY_GFNI
    /* A product of matrices of bits, one of which has ones from corner to corner. */
    return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)0x8040201008040201), x, 0);
#else
    /* The halves of the 8 x 8 bits off the diagonal change places, then those of the quarters, then those of theirs. */
    const __m512i masks[3] = {_mm512_set1_epi64(0x00000000f0f0f0f0), _mm512_set1_epi64(0x0000cccc0000cccc),
                              _mm512_set1_epi64(0x00aa00aa00aa00aa)};
#pragma GCC unroll 3
    for (unsigned i = 0; i < 3; i++) {
        const unsigned distance = 28u >> i;
        const __m512i differ = _mm512_ternarylogic_epi64(masks[i], x, _mm512_srli_epi64(x, distance), 0x60);
        x = _mm512_ternarylogic_epi64(x, differ, _mm512_slli_epi64(differ, distance), 0x96);
    }
    return x;
#endif
}

/* x[BYTE_OF_PLANE(i)]: plane i of 512 lanes. bytes[r] has in its 128-bit part p the lanes from 16 (8 p + r) on. */
BYTES_INLINE void bytes_of_lanes(const __m512i x[8], __m512i bytes[8]) {
    __m512i low[4], high[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        low[i] = _mm512_unpacklo_epi8(x[2 * i], x[2 * i + 1]);
        high[i] = _mm512_unpackhi_epi8(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) { /* bytes 0 to 7 of each part, then 8 to 15 */
        const __m512i *from = i ? high : low;
        const __m512i a = _mm512_unpacklo_epi16(from[0], from[1]), b = _mm512_unpacklo_epi16(from[2], from[3]);
        const __m512i c = _mm512_unpackhi_epi16(from[0], from[1]), d = _mm512_unpackhi_epi16(from[2], from[3]);
        bytes[4 * i] = transpose_bits(_mm512_unpacklo_epi32(a, b));
        bytes[4 * i + 1] = transpose_bits(_mm512_unpackhi_epi32(a, b));
        bytes[4 * i + 2] = transpose_bits(_mm512_unpacklo_epi32(c, d));
        bytes[4 * i + 3] = transpose_bits(_mm512_unpackhi_epi32(c, d));
    }
}

/* Planes [begin, end), eight at most, as bytes of lanes. A plane has lane_bytes: 64, or 32 of each of two counters. */
BYTES_INLINE void load_bytes(const uint8_t *const counters[2], size_t lane_bytes, size_t begin, size_t end,
                             __m512i bytes[8]) {
    __m512i x[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        const size_t at = (begin + i) * lane_bytes;
        __m512i plane = _mm512_setzero_si512();
        if (begin + i < end && lane_bytes == 64) {
            plane = _mm512_load_si512((const void *)(counters[0] + at));
        } else if (begin + i < end) {
            const __m256i first = _mm256_load_si256((const __m256i *)(const void *)(counters[0] + at));
            const __m256i second = _mm256_load_si256((const __m256i *)(const void *)(counters[1] + at));
            plane = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        }
        x[BYTE_OF_PLANE(i)] = plane;
    }
    bytes_of_lanes(x, bytes);
}

/* Where the number of a lane is, among 512: those of 16 lanes lie together. */
static inline size_t number_of_lane(size_t lane) { return (lane / 16 % 8 * 4 + lane / 128) * 16 + lane % 16; }

/* (counters + add) mod 2^planes for 512 lanes, or for 256 of each of two counters: a plane after the other, the lowest
 * first, 16 at most. */
BYTES_INLINE void numbers_of_lanes(const uint8_t *const counters[2], size_t lane_bytes, size_t planes,
                                   const uint32_t add[2], uint16_t numbers[512]) {
    const size_t low_planes = smaller(planes, 8);
    __m512i low[8], high[8];
    load_bytes(counters, lane_bytes, 0, low_planes, low);
    load_bytes(counters, lane_bytes, low_planes, planes, high);
    const __m512i mask = _mm512_set1_epi16((short)low_bits(planes));
    const __m512i addend =
        _mm512_inserti64x4(_mm512_set1_epi16((short)add[0]), _mm256_set1_epi16((short)add[lane_bytes == 32]), 1);
    const __m512i parts01 = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i parts23 = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 8
    for (size_t r = 0; r < 8; r++, numbers += 64) { /* sixteen of each of the four parts of registers */
        const __m512i first = _mm512_unpacklo_epi8(low[r], high[r]), second = _mm512_unpackhi_epi8(low[r], high[r]);
        const __m512i a = _mm512_and_si512(_mm512_add_epi16(first, addend), mask);
        const __m512i b = _mm512_and_si512(_mm512_add_epi16(second, addend), mask);
        _mm512_store_si512((void *)numbers, _mm512_permutex2var_epi64(a, parts01, b));
        _mm512_store_si512((void *)(numbers + 32), _mm512_permutex2var_epi64(a, parts23, b));
    }
}

#endif /* BNNCC_BYTES_OF_LANES_AVX512_H */
