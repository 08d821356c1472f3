/* From counters of filters to numbers, and from those to floats, with AVX-512BW. */
#include "steps.h"

#if defined(__x86_64__)
#define NUMBERS_512 channels_numbers_512_avx512
#define NUMBERS_256 channels_numbers_256_avx512
#include "expand_avx512.h"

/* Rows and columns of 16 x 16 numbers change places: pairs, pairs of pairs, then quarters of the registers. */
BYTES_INLINE void transpose_16x16(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) { /* r[i + c]: column 4 q + c of rows i to i + 3, in quarter q */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (size_t c = 0; c < 4; c++) {
        const __m512i low01 = _mm512_shuffle_i32x4(r[c], r[c + 4], 0x44);
        const __m512i low23 = _mm512_shuffle_i32x4(r[c], r[c + 4], 0xee);
        const __m512i high01 = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0x44);
        const __m512i high23 = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0xee);
        t[c] = _mm512_shuffle_i32x4(low01, high01, 0x88);
        t[c + 4] = _mm512_shuffle_i32x4(low01, high01, 0xdd);
        t[c + 8] = _mm512_shuffle_i32x4(low23, high23, 0x88);
        t[c + 12] = _mm512_shuffle_i32x4(low23, high23, 0xdd);
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        r[i] = t[i];
}

/* lane_bytes is a constant where this is called. */
BYTES_INLINE void turn(const channels_expansion *expansion, const uint16_t *numbers, const channels_floats *to,
                       const size_t lane_bytes) {
    const size_t at_once = 64 / lane_bytes;
    const bool compare = to->threshold != NULL;
    for (size_t filter = 0; compare && filter < to->count; filter++)
        to->signs[filter] = 0;
    for (size_t pixel = 0; pixel < expansion->pixels; pixel += 16) {
        const __mmask16 present = (__mmask16)low_bits(smaller(expansion->pixels - pixel, 16));
        const __m512i inside = _mm512_maskz_loadu_epi32(present, expansion->inside + pixel);
        for (size_t filter = 0; filter < to->count; filter += 16) {
            __m512i rows[16];
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++) {
                const size_t lane = i % at_once * 256 + to->first + filter;
                const uint16_t *from = numbers + (pixel + i) / at_once * 512 + number_of_lane(lane);
                rows[i] = _mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(const void *)from));
            }
            transpose_16x16(rows);
            const float *scale = to->scale + filter, *shift = to->shift + filter;
            float *y = to->y + filter * to->y_step + pixel;
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++)
                if (filter + i < to->count) {
                    rows[i] = _mm512_sub_epi32(_mm512_slli_epi32(rows[i], 1), inside);
                    const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(rows[i]), _mm512_set1_ps(scale[i]));
                    _mm512_mask_storeu_ps(y + i * to->y_step, present,
                                          _mm512_add_ps(product, _mm512_set1_ps(shift[i])));
                }
            if (!compare)
                continue;
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++)
                if (filter + i < to->count) {
                    const __m512i bound = _mm512_set1_epi32(to->threshold[filter + i]);
                    to->signs[filter + i] |= (uint64_t)_mm512_mask_cmpge_epi32_mask(present, rows[i], bound) << pixel;
                }
        }
    }
}

BYTES_TARGET void channels_turn_512_avx512(const channels_expansion *expansion, const uint16_t *numbers,
                                           const channels_floats *to) {
    turn(expansion, numbers, to, 64);
}

BYTES_TARGET void channels_turn_256_avx512(const channels_expansion *expansion, const uint16_t *numbers,
                                           const channels_floats *to) {
    turn(expansion, numbers, to, 32);
}
#endif
