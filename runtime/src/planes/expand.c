/* From vertical counters to floats: dot = +-(4 (c - offset) + 2 e + sums), then dot * scale + shift.
 *
 * To be compiled with -ffp-contract=off, as epilogue.c and for its reason. */
#include "program.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The plain form: a number per pixel, a bit at a time. */
__attribute__((always_inline)) static inline void expand(const planes_expansion *row, float *y) {
    int32_t values[64] = {0}, even[64];
    const int unused = 32 - (int)row->planes;
    const uint64_t parity = load_word(row->counted, row->word_bytes);
    for (size_t i = 0; i < row->count; i++)
        even[i] = (int32_t)(parity >> i & 1);
    for (size_t k = 0; k < row->planes; k++) {
        const uint64_t plane = load_word(row->counted + (1 + k) * row->vector_bytes, row->word_bytes);
        for (size_t i = 0; i < row->count; i++)
            values[i] |= (int32_t)(plane >> i & 1) << k;
    }
    for (size_t i = 0; i < row->count; i++) {
        /* The counters count modulo 2^planes; their difference with the offset lies about zero. */
        const int32_t count = (int32_t)((uint32_t)(values[i] - row->offset) << unused) >> unused;
        const int32_t dot = 4 * count + 2 * even[i] + row->sums[i];
        const float product = (float)(row->flipped ? -dot : dot) * row->scale;
        y[i] = product + row->shift;
    }
}

void planes_expand_portable(const planes_expansion *row, float *y) { expand(row, y); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) void planes_expand_avx2(const planes_expansion *row, float *y) { expand(row, y); }

/* The word of a plane as a mask: the pixels are its low bits. */
__attribute__((always_inline)) static inline uint64_t plane_word(const uint8_t *from, size_t bytes) {
    uint64_t word = 0;
    if (bytes == 8)
        memcpy(&word, from, 8);
    else if (bytes == 4)
        memcpy(&word, from, 4);
    else if (bytes == 2)
        memcpy(&word, from, 2);
    else
        memcpy(&word, from, 1);
    return word;
}

/* 2 c + e in two bytes per pixel, which planes add their bit to where they have one; 16 pixels at a time become floats.
 */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void planes_expand_avx512(const planes_expansion *row,
                                                                                        float *y) {
    if (row->planes > 13) {
        expand(row, y);
        return;
    }
    const uint8_t *from = row->counted;
    const size_t bytes = row->word_bytes;
    __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi8(1);
    for (size_t k = 0; k < 8; k++, from += row->vector_bytes) { /* the parity and seven planes */
        low = _mm512_mask_add_epi8(low, plane_word(from, bytes), low, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    bit = _mm512_set1_epi8(1);
    for (size_t k = 7; k < row->planes; k++, from += row->vector_bytes) {
        high = _mm512_mask_add_epi8(high, plane_word(from, bytes), high, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    const __m128i unused = _mm_cvtsi32_si128(15 - (int)row->planes);
    const __m512i offset = _mm512_set1_epi16((short)(2 * row->offset));
    const __m512i negate = _mm512_set1_epi32(row->flipped ? -1 : 0); /* -x = (x ^ -1) - -1 */
    const __m512 scale = _mm512_set1_ps(row->scale), shift = _mm512_set1_ps(row->shift);
    for (size_t at = 0; at < row->count; at += 16) {
        const __m256i low_part = at < 32 ? _mm512_castsi512_si256(low) : _mm512_extracti64x4_epi64(low, 1);
        const __m256i high_part = at < 32 ? _mm512_castsi512_si256(high) : _mm512_extracti64x4_epi64(high, 1);
        __m512i values =
            _mm512_or_si512(_mm512_cvtepu8_epi16(low_part), _mm512_slli_epi16(_mm512_cvtepu8_epi16(high_part), 8));
        values = _mm512_sub_epi16(values, offset);
        values = _mm512_sra_epi16(_mm512_sll_epi16(values, unused), unused);
        const __m256i part = at % 32 ? _mm512_extracti64x4_epi64(values, 1) : _mm512_castsi512_si256(values);
        const size_t left = row->count - at;
        const __mmask16 inside = (__mmask16)(left >= 16 ? 0xffff : (1u << left) - 1);
        __m512i dot = _mm512_slli_epi32(_mm512_cvtepi16_epi32(part), 1);
        dot = _mm512_add_epi32(dot, _mm512_maskz_loadu_epi32(inside, row->sums + at));
        dot = _mm512_sub_epi32(_mm512_xor_si512(dot, negate), negate);
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
        const __m512 value = _mm512_add_ps(product, shift);
        if (left >= 16)
            _mm512_storeu_ps(y + at, value);
        else
            _mm512_mask_storeu_ps(y + at, inside, value);
    }
}
#endif
