/* Rows of slots of 64 pixels and columns of them change places: 8 x 8 words in AVX-512 registers. */
#ifndef BNNCC_TRANSPOSE_AVX512_H
#define BNNCC_TRANSPOSE_AVX512_H

#include <immintrin.h>

__attribute__((always_inline, target("avx512f"))) static inline void transpose_8x8_words(__m512i rows[8]) {
    __m512i pairs[8], fours[8]; /* words of two, of four rows */
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        fours[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0x88);
        fours[i + 2] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0xdd);
        fours[i + 4] = _mm512_shuffle_i64x2(pairs[i + 4], pairs[i + 6], 0x88);
        fours[i + 6] = _mm512_shuffle_i64x2(pairs[i + 4], pairs[i + 6], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
        rows[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
}

#endif /* BNNCC_TRANSPOSE_AVX512_H */
