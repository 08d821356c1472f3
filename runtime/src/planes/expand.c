/* From vertical counters to floats: dot = +-(4 (c - offset) + 2 e + sums), then dot * scale + shift.
 *
 * To be compiled with -ffp-contract=off, as epilogue.c and for its reason. */
#include "program.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The plain form: a number per pixel, a bit at a time. */
__attribute__((always_inline)) static inline void expand(const planes_expansion *word) {
    const int unused = 32 - (int)word->planes;
    for (size_t slot = 0; slot < 8 / word->pitch; slot++) {
        int32_t values[64] = {0}, even[64];
        const uint8_t *from = word->counted + slot * word->pitch;
        const size_t count = word->count[slot];
        const uint64_t parity = load_word(from, word->pitch);
        for (size_t i = 0; i < count; i++)
            even[i] = (int32_t)(parity >> i & 1);
        for (size_t k = 0; k < word->planes; k++) {
            const uint64_t plane = load_word(from + (1 + k) * word->vector_bytes, word->pitch);
            for (size_t i = 0; i < count; i++)
                values[i] |= (int32_t)(plane >> i & 1) << k;
        }
        for (size_t i = 0; i < count; i++) {
            /* The counters count modulo 2^planes; their difference with the offset lies about zero. */
            const int32_t difference = (int32_t)((uint32_t)(values[i] - word->offset) << unused) >> unused;
            const int32_t dot = 4 * difference + 2 * even[i] + word->sums[slot][i];
            const float product = (float)(word->flipped ? -dot : dot) * word->scale;
            word->y[slot][i] = product + word->shift;
        }
    }
}

void planes_expand_portable(const planes_expansion *word) { expand(word); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) void planes_expand_avx2(const planes_expansion *word) { expand(word); }

/* 2 c + e in two bytes per pixel, which planes add their bit to where they have one: 64 pixels at a time, whatever the
 * slots; 16 pixels at a time become floats. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void planes_expand_avx512(const planes_expansion *word) {
    if (word->planes > 13) {
        expand(word);
        return;
    }
    const uint8_t *from = word->counted;
    __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi8(1);
    for (size_t k = 0; k < 8; k++, from += word->vector_bytes) { /* the parity and seven planes */
        low = _mm512_mask_add_epi8(low, load_word(from, 8), low, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    bit = _mm512_set1_epi8(1);
    for (size_t k = 7; k < word->planes; k++, from += word->vector_bytes) {
        high = _mm512_mask_add_epi8(high, load_word(from, 8), high, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    /* All 64 values, and room for a load of 16 from the last slot of 8. */
    _Alignas(64) int16_t values[64 + 32] = {0};
    const __m128i unused = _mm_cvtsi32_si128(15 - (int)word->planes);
    const __m512i offset = _mm512_set1_epi16((short)(2 * word->offset));
    for (size_t half = 0; half < 2; half++) {
        const __m256i low_part = half ? _mm512_extracti64x4_epi64(low, 1) : _mm512_castsi512_si256(low);
        const __m256i high_part = half ? _mm512_extracti64x4_epi64(high, 1) : _mm512_castsi512_si256(high);
        __m512i wide =
            _mm512_or_si512(_mm512_cvtepu8_epi16(low_part), _mm512_slli_epi16(_mm512_cvtepu8_epi16(high_part), 8));
        wide = _mm512_sub_epi16(wide, offset);
        wide = _mm512_sra_epi16(_mm512_sll_epi16(wide, unused), unused);
        _mm512_store_si512((void *)(values + 32 * half), wide);
    }
    const __m512i negate = _mm512_set1_epi32(word->flipped ? -1 : 0); /* -x = (x ^ -1) - -1 */
    const __m512 scale = _mm512_set1_ps(word->scale), shift = _mm512_set1_ps(word->shift);
    for (size_t slot = 0; slot < 8 / word->pitch; slot++)
        for (size_t at = 0; at < word->count[slot]; at += 16) {
            const __m256i part =
                _mm256_loadu_si256((const __m256i *)(const void *)(values + slot * 8 * word->pitch + at));
            const size_t left = word->count[slot] - at;
            const __mmask16 inside = (__mmask16)(left >= 16 ? 0xffff : (1u << left) - 1);
            __m512i dot = _mm512_slli_epi32(_mm512_cvtepi16_epi32(part), 1);
            dot = _mm512_add_epi32(dot, _mm512_maskz_loadu_epi32(inside, word->sums[slot] + at));
            dot = _mm512_sub_epi32(_mm512_xor_si512(dot, negate), negate);
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
            const __m512 value = _mm512_add_ps(product, shift);
            if (left >= 16)
                _mm512_storeu_ps(word->y[slot] + at, value);
            else
                _mm512_mask_storeu_ps(word->y[slot] + at, inside, value);
        }
}
#endif
