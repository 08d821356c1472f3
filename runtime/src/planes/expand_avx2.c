/* From vertical counters to floats with AVX2. */
#include "checked.h"
#include "program.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2"), always_inline)) static inline

/* Eight pixels of each of eight planes, a byte each in a 64-bit lane, become eight bytes, one a pixel: the halves of
 * the 8 x 8 bits off the diagonal change places, then those of the quarters, then those of their quarters. */
AVX2 __m256i transpose_bits(__m256i x) {
    __m256i differ =
        _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 28)), _mm256_set1_epi64x(0x00000000f0f0f0f0));
    x = _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 28)));
    differ = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 14)), _mm256_set1_epi64x(0x0000cccc0000cccc));
    x = _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 14)));
    differ = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, 7)), _mm256_set1_epi64x(0x00aa00aa00aa00aa));
    return _mm256_xor_si256(x, _mm256_xor_si256(differ, _mm256_slli_epi64(differ, 7)));
}

/* Eight planes of as many lanes as vectors have become bytes of lanes, the first plane in the lowest bit: bytes[r] has
 * in its 128-bit part p the lanes from 16 (8 p + r) on. Planes beyond `count` are zeros. */
AVX2 void bytes_of_lanes(const uint8_t *planes, size_t count, __m256i bytes[8]) {
    __m256i x[8], low[4], high[4];
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; k++)
        x[k] = k < count ? _mm256_load_si256((const __m256i *)(const void *)(planes + 32 * k)) : _mm256_setzero_si256();
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        low[i] = _mm256_unpacklo_epi8(x[2 * i], x[2 * i + 1]);
        high[i] = _mm256_unpackhi_epi8(x[2 * i], x[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) { /* bytes 0 to 7 of each part, then 8 to 15 */
        const __m256i *from = i ? high : low;
        const __m256i a = _mm256_unpacklo_epi16(from[0], from[1]), b = _mm256_unpacklo_epi16(from[2], from[3]);
        const __m256i c = _mm256_unpackhi_epi16(from[0], from[1]), d = _mm256_unpackhi_epi16(from[2], from[3]);
        bytes[4 * i] = transpose_bits(_mm256_unpacklo_epi32(a, b));
        bytes[4 * i + 1] = transpose_bits(_mm256_unpackhi_epi32(a, b));
        bytes[4 * i + 2] = transpose_bits(_mm256_unpacklo_epi32(c, d));
        bytes[4 * i + 3] = transpose_bits(_mm256_unpackhi_epi32(c, d));
    }
}

enum { MOST_PIECES = 32 }; /* of 256 lanes */

/* Pixels of a run that one register takes: the place of their numbers, and the rest as planes_run has it. */
typedef struct piece {
    size_t at, count;
    const float *sums;
    float *y;
} piece;

/* Cuts the runs of a block into pieces of 8 pixels; returns how many. Numbers of 16 lanes lie together; those of the
 * eight blocks of 16 in a vector's 128-bit part p are p, p + 2, p + 4, ... */
static size_t cut_runs(const planes_expansion *block, piece pieces[MOST_PIECES]) {
    size_t count = 0;
    for (const planes_run *run = block->runs; run < block->runs + block->run_count; run++)
        for (size_t i = 0; i < run->count; i += 8) {
            const size_t lane = run->at + i, number = lane / 16;
            pieces[count++] = (piece){.at = (number % 8 * 2 + number / 8) * 16 + lane % 16,
                                      .count = smaller(run->count - i, 8),
                                      .sums = run->sums + i,
                                      .y = run->y + i};
        }
    return count;
}

__attribute__((target("avx2"))) void planes_expand_avx2(const planes_expansion *block, size_t channels) {
    piece pieces[MOST_PIECES];
    const size_t piece_count = cut_runs(block, pieces), low_planes = smaller(block->planes, 8);
    const __m256i mask = _mm256_set1_epi16((short)low_bits(block->planes));
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t channel = 0; channel < channels; channel++) {
        const uint8_t *from = block->counted + channel * block->counted_step;
        __m256i low[8], high[8];
        bytes_of_lanes(from, low_planes, low);
        bytes_of_lanes(from + 8 * 32, block->planes - low_planes, high);
        _Alignas(32) uint16_t values[256];
        const __m256i add = _mm256_set1_epi16((short)block->add[channel]);
#pragma GCC unroll 8
        for (size_t r = 0; r < 8; r++) {
            const __m256i first = _mm256_unpacklo_epi8(low[r], high[r]), second = _mm256_unpackhi_epi8(low[r], high[r]);
            const __m256i a = _mm256_and_si256(_mm256_add_epi16(first, add), mask);
            const __m256i b = _mm256_and_si256(_mm256_add_epi16(second, add), mask);
            _mm256_store_si256((__m256i *)(void *)(values + 32 * r), _mm256_permute2x128_si256(a, b, 0x20));
            _mm256_store_si256((__m256i *)(void *)(values + 32 * r + 16), _mm256_permute2x128_si256(a, b, 0x31));
        }
        const __m256 factor = _mm256_set1_ps(block->factor[channel]);
        const __m256 scale = _mm256_set1_ps(block->scale[channel]), shift = _mm256_set1_ps(block->shift[channel]);
        for (const piece *piece = pieces; piece < pieces + piece_count; piece++) {
            const float *sums = piece->sums + channel * block->sums_step;
            float *y = piece->y + channel * block->y_step;
            const __m128i part = _mm_load_si128((const __m128i *)(const void *)(values + piece->at));
            const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(part)), factor);
            if (piece->count == 8) {
                const __m256 dot = _mm256_add_ps(value, _mm256_loadu_ps(sums));
                _mm256_storeu_ps(y, _mm256_add_ps(_mm256_mul_ps(dot, scale), shift));
            } else {
                const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)piece->count), numbers);
                const __m256 dot = _mm256_add_ps(value, _mm256_maskload_ps(sums, inside));
                _mm256_maskstore_ps(y, inside, _mm256_add_ps(_mm256_mul_ps(dot, scale), shift));
            }
        }
    }
}
#endif
