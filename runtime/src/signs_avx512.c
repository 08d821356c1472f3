/* Transposing 64 x 64 bits with AVX-512. */
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* Register i holds rows 8 i to 8 i + 7. Halves of 32, 16 and 8 rows are registers apart, as in transpose_64x64. */
TARGET __attribute__((always_inline)) static inline void exchange_registers(__m512i rows[8], size_t half,
                                                                            uint64_t block_mask) {
    const __m512i mask = _mm512_set1_epi64((long long)block_mask);
    const __m128i distance = _mm_cvtsi64_si128((long long)half);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        const size_t other = i + half / 8;
        if (i & half / 8)
            continue;
        const __m512i moved = _mm512_srl_epi64(rows[i], distance);
        const __m512i differ = _mm512_ternarylogic_epi64(moved, rows[other], mask, 0x28); /* (a ^ b) & c */
        rows[i] = _mm512_xor_si512(rows[i], _mm512_sll_epi64(differ, distance));
        rows[other] = _mm512_xor_si512(rows[other], differ);
    }
}

/* Those of 4, 2 and 1 are lanes apart: a lane keeps half of its bits and takes the others, moved, from its partner.
 * upper: the lanes of the lower halves of rows. */
#define EXCHANGE_LANES(half, PARTNERS, block_mask, upper)                                                              \
    do {                                                                                                               \
        const __m512i mask = _mm512_set1_epi64((long long)(block_mask));                                               \
        const __m512i keep = _mm512_mask_xor_epi64(mask, upper, mask, _mm512_set1_epi64(-1));                          \
        const __m512i left = _mm512_mask_set1_epi64(_mm512_set1_epi64(half), upper, 64 - (half));                      \
        _Pragma("GCC unroll 8") for (size_t i = 0; i < 8; i++) {                                                       \
            const __m512i partners = _mm512_rolv_epi64(PARTNERS(rows[i]), left);                                       \
            rows[i] = _mm512_ternarylogic_epi64(keep, rows[i], partners, 0xca);                                        \
        }                                                                                                              \
    } while (0)
#define PARTNERS_4(v) _mm512_shuffle_i64x2(v, v, 0x4e)
#define PARTNERS_2(v) _mm512_permutex_epi64(v, 0x4e)
#define PARTNERS_1(v) _mm512_permutex_epi64(v, 0xb1)

TARGET void transpose_64x64_avx512(uint64_t words[64], size_t columns) {
    (void)columns;
    __m512i rows[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        rows[i] = _mm512_loadu_si512((const void *)(words + 8 * i));
    exchange_registers(rows, 32, 0x00000000ffffffff);
    exchange_registers(rows, 16, 0x0000ffff0000ffff);
    exchange_registers(rows, 8, 0x00ff00ff00ff00ff);
    EXCHANGE_LANES(4, PARTNERS_4, 0x0f0f0f0f0f0f0f0f, 0xf0);
    EXCHANGE_LANES(2, PARTNERS_2, 0x3333333333333333, 0xcc);
    EXCHANGE_LANES(1, PARTNERS_1, 0x5555555555555555, 0xaa);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        _mm512_storeu_si512((void *)(words + 8 * i), rows[i]);
}
#endif
