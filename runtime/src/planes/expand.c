/* From vertical counters to floats: see planes_expansion.
 *
 * The dot products are exact however they are computed: integers that float32 holds. What follows, dot * scale and then
 * + shift, is rounded twice: to be compiled with -ffp-contract=off, as epilogue.c and for its reason. */
#include "checked.h"
#include "program.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The plain form: a number per pixel, a bit at a time. */
__attribute__((always_inline)) static inline void expand(const planes_expansion *word, size_t begin, size_t end) {
    const uint32_t mask = (uint32_t)low_bits(word->planes);
    for (size_t channel = begin; channel < end; channel++)
        for (size_t slot = 0; slot < 8 / word->pitch; slot++) {
            const uint8_t *from = word->counted + channel * word->counted_step + slot * word->pitch;
            const size_t count = word->count[slot];
            if (count == 0)
                continue;
            const float *sums = word->sums[slot] + channel * word->sums_step;
            float *y = word->y[slot] + channel * word->y_step;
            uint32_t values[64] = {0};
            for (size_t k = 0; k < word->planes; k++) {
                const uint64_t plane = load_word(from + k * word->plane_bytes, word->pitch);
                for (size_t i = 0; i < count; i++)
                    values[i] |= (uint32_t)(plane >> i & 1) << k;
            }
            for (size_t i = 0; i < count; i++) {
                const float value = (float)(int32_t)((values[i] + word->add[channel]) & mask);
                const float dot = value * word->factor[channel] + sums[i];
                const float product = dot * word->scale[channel];
                y[i] = product + word->shift[channel];
            }
        }
}

void planes_expand_portable(const planes_expansion *word, size_t begin, size_t end) { expand(word, begin, end); }

#if defined(__x86_64__)

/* Neighbouring pixels of a slot, as many as a register takes. */
typedef struct pixel_run {
    size_t at, count;  /* where in the word */
    const float *sums; /* of channel 0, as y */
    float *y;
} pixel_run;

/* Cuts the slots into runs of `most` pixels; returns how many. */
static size_t find_runs(const planes_expansion *word, size_t most, pixel_run runs[8]) {
    size_t count = 0;
    for (size_t slot = 0; slot < 8 / word->pitch; slot++)
        for (size_t i = 0; i < word->count[slot]; i += most)
            runs[count++] = (pixel_run){slot * word->pitch * 8 + i, smaller(word->count[slot] - i, most),
                                        word->sums[slot] + i, word->y[slot] + i};
    return count;
}

/* Eight pixels of each of eight planes, a byte each in a 64-bit lane, become eight bytes, one a pixel: the halves of
 * the 8 x 8 bits off the diagonal change places, then those of the quarters, then those of their quarters. */
__attribute__((target("avx2"), always_inline)) static inline __m256i transpose_8x8(__m256i x) {
    __m256i differ =
        _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 28)), _mm256_set1_epi64x(0x00000000f0f0f0f0));
    x = _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 28)));
    differ = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 14)), _mm256_set1_epi64x(0x0000cccc0000cccc));
    x = _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 14)));
    differ = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 7)), _mm256_set1_epi64x(0x00aa00aa00aa00aa));
    return _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 7)));
}

/* Eight planes' words, those beyond `planes` being 0, as bytes of 64 pixels: 0 to 15 and 32 to 47 in bytes[0] and [1].
 */
__attribute__((target("avx2"), always_inline)) static inline void planes_to_bytes(const uint8_t *from, size_t step,
                                                                                  size_t planes, __m256i bytes[2]) {
    __m128i words[8];
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k++)
        words[k] = k < planes ? _mm_loadl_epi64((const __m128i *)(const void *)(from + k * step)) : _mm_setzero_si128();
    const __m128i p01 = _mm_unpacklo_epi8(words[0], words[1]), p23 = _mm_unpacklo_epi8(words[2], words[3]);
    const __m128i p45 = _mm_unpacklo_epi8(words[4], words[5]), p67 = _mm_unpacklo_epi8(words[6], words[7]);
    const __m256i low = _mm256_set_m128i(_mm_unpackhi_epi16(p01, p23), _mm_unpacklo_epi16(p01, p23));
    const __m256i high = _mm256_set_m128i(_mm_unpackhi_epi16(p45, p67), _mm_unpacklo_epi16(p45, p67));
    bytes[0] = transpose_8x8(_mm256_unpacklo_epi32(low, high));
    bytes[1] = transpose_8x8(_mm256_unpackhi_epi32(low, high));
}

__attribute__((target("avx2"))) void planes_expand_avx2(const planes_expansion *word, size_t begin, size_t end) {
    if (word->planes > 16) {
        expand(word, begin, end);
        return;
    }
    pixel_run runs[8];
    const size_t run_count = find_runs(word, 8, runs);
    const __m256i mask = _mm256_set1_epi16((short)low_bits(word->planes));
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t channel = begin; channel < end; channel++) {
        const uint8_t *from = word->counted + channel * word->counted_step;
        __m256i low[2], high[2];
        planes_to_bytes(from, word->plane_bytes, smaller(word->planes, 8), low);
        planes_to_bytes(from + 8 * word->plane_bytes, word->plane_bytes, word->planes > 8 ? word->planes - 8 : 0, high);
        _Alignas(32) uint16_t values[64 + 8]; /* a run may begin anywhere */
        const __m256i add = _mm256_set1_epi16((short)word->add[channel]);
        for (size_t half = 0; half < 2; half++) {
            /* Bytes 0 to 15 are pixels 16 half and on, bytes 16 to 31 those 32 later. */
            const __m256i first = _mm256_unpacklo_epi8(low[half], high[half]);
            const __m256i second = _mm256_unpackhi_epi8(low[half], high[half]);
            const __m256i a = _mm256_and_si256(_mm256_add_epi16(first, add), mask);
            const __m256i b = _mm256_and_si256(_mm256_add_epi16(second, add), mask);
            _mm256_store_si256((__m256i *)(void *)(values + 16 * half), _mm256_permute2x128_si256(a, b, 0x20));
            _mm256_store_si256((__m256i *)(void *)(values + 32 + 16 * half), _mm256_permute2x128_si256(a, b, 0x31));
        }
        const __m256 factor = _mm256_set1_ps(word->factor[channel]);
        const __m256 scale = _mm256_set1_ps(word->scale[channel]), shift = _mm256_set1_ps(word->shift[channel]);
        for (const pixel_run *run = runs; run < runs + run_count; run++) {
            const float *sums = run->sums + channel * word->sums_step;
            float *y = run->y + channel * word->y_step;
            const __m128i part = _mm_loadu_si128((const __m128i *)(const void *)(values + run->at));
            const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(part)), factor);
            if (run->count == 8) {
                const __m256 dot = _mm256_add_ps(value, _mm256_loadu_ps(sums));
                _mm256_storeu_ps(y, _mm256_add_ps(_mm256_mul_ps(dot, scale), shift));
            } else {
                const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)run->count), numbers);
                const __m256 dot = _mm256_add_ps(value, _mm256_maskload_ps(sums, inside));
                _mm256_maskstore_ps(y, inside, _mm256_add_ps(_mm256_mul_ps(dot, scale), shift));
            }
        }
    }
}

/* Two bytes per pixel, which planes add their bit to where they have one. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void planes_expand_avx512(const planes_expansion *word,
                                                                                        size_t begin, size_t end) {
    if (word->planes > 16) {
        expand(word, begin, end);
        return;
    }
    pixel_run runs[8];
    const size_t run_count = find_runs(word, 16, runs);
    const __m512i mask = _mm512_set1_epi16((short)low_bits(word->planes));
    const __m512i first_order = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second_order = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (size_t channel = begin; channel < end; channel++) {
        const uint8_t *from = word->counted + channel * word->counted_step;
        __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi8(1);
#pragma GCC unroll 8
        for (size_t k = 0; k < 8; k++, from += word->plane_bytes) { /* there are nine or more */
            low = _mm512_mask_add_epi8(low, load_word(from, 8), low, bit);
            bit = _mm512_add_epi8(bit, bit);
        }
        bit = _mm512_set1_epi8(1);
        for (size_t k = 8; k < word->planes; k++, from += word->plane_bytes) {
            high = _mm512_mask_add_epi8(high, load_word(from, 8), high, bit);
            bit = _mm512_add_epi8(bit, bit);
        }
        _Alignas(64) uint16_t values[64 + 16]; /* a run may begin anywhere */
        const __m512i add = _mm512_set1_epi16((short)word->add[channel]);
        const __m512i a = _mm512_and_si512(_mm512_add_epi16(_mm512_unpacklo_epi8(low, high), add), mask);
        const __m512i b = _mm512_and_si512(_mm512_add_epi16(_mm512_unpackhi_epi8(low, high), add), mask);
        _mm512_store_si512((void *)values, _mm512_permutex2var_epi64(a, first_order, b));
        _mm512_store_si512((void *)(values + 32), _mm512_permutex2var_epi64(a, second_order, b));
        const __m512 factor = _mm512_set1_ps(word->factor[channel]);
        const __m512 scale = _mm512_set1_ps(word->scale[channel]), shift = _mm512_set1_ps(word->shift[channel]);
        for (const pixel_run *run = runs; run < runs + run_count; run++) {
            const float *sums = run->sums + channel * word->sums_step;
            float *y = run->y + channel * word->y_step;
            const __m256i part = _mm256_loadu_si256((const __m256i *)(const void *)(values + run->at));
            const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(part));
            if (run->count == 16) {
                const __m512 dot = _mm512_fmadd_ps(value, factor, _mm512_loadu_ps(sums));
                _mm512_storeu_ps(y, _mm512_add_ps(_mm512_mul_ps(dot, scale), shift));
            } else {
                const __mmask16 inside = (__mmask16)((1u << run->count) - 1);
                const __m512 dot = _mm512_fmadd_ps(value, factor, _mm512_maskz_loadu_ps(inside, sums));
                _mm512_mask_storeu_ps(y, inside, _mm512_add_ps(_mm512_mul_ps(dot, scale), shift));
            }
        }
    }
}
#endif
