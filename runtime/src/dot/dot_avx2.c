/* The dot kernel for AVX2: ones are counted by looking up each half byte in a table of 16 with a byte shuffle. */
#include "dot.h"

#if defined(__x86_64__)
#include "../checked.h"

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

/* A byte of a counter grows by at most 8 per word, so after 31 words (248) it is emptied before it could overflow. */
enum { LANES = 4, WORDS_PER_BYTE_COUNTER = 31 };

/* One window, four filters. */
TARGET __attribute__((always_inline)) static inline void store_window(__m256i differing, int32_t length,
                                                                      int32_t *dots) {
    uint64_t counts[LANES];
    _mm256_storeu_si256((__m256i *)counts, differing);
    for (size_t f = 0; f < LANES; f++)
        dots[f * DOT_TILE] = length - 2 * (int32_t)counts[f];
}

/* Four windows, four filters. A count fits half a lane, so the counts of two windows are put side by side in a lane, in
 * the order in which they are stored; the lanes of two such registers, interleaved, are four windows of a filter. */
TARGET __attribute__((always_inline)) static inline void store_four_windows(const __m256i *differing, int32_t length,
                                                                            int32_t *dots) {
    const __m256i all = _mm256_set1_epi32(length);
    __m256i first = _mm256_or_si256(differing[0], _mm256_slli_epi64(differing[1], 32));
    __m256i second = _mm256_or_si256(differing[2], _mm256_slli_epi64(differing[3], 32));
    first = _mm256_sub_epi32(all, _mm256_slli_epi32(first, 1));
    second = _mm256_sub_epi32(all, _mm256_slli_epi32(second, 1));
    const __m256i even = _mm256_unpacklo_epi64(first, second), odd = _mm256_unpackhi_epi64(first, second);
    _mm_storeu_si128((__m128i *)(dots + 0 * DOT_TILE), _mm256_castsi256_si128(even));
    _mm_storeu_si128((__m128i *)(dots + 1 * DOT_TILE), _mm256_castsi256_si128(odd));
    _mm_storeu_si128((__m128i *)(dots + 2 * DOT_TILE), _mm256_extracti128_si256(even, 1));
    _mm_storeu_si128((__m128i *)(dots + 3 * DOT_TILE), _mm256_extracti128_si256(odd, 1));
}

/* 4 filters by `windows` windows; `windows` is a constant at every call, so that the loops unroll. */
TARGET __attribute__((always_inline)) static inline void
block(const uint64_t *window, size_t windows, const uint64_t *weights, size_t words, int32_t length, int32_t *dots) {
    const __m256i ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low_half = _mm256_set1_epi8(15);
    __m256i differing[4], bytes[4];
#pragma GCC unroll 4
    for (size_t p = 0; p < windows; p++)
        differing[p] = _mm256_setzero_si256();
    for (size_t begin = 0; begin < words; begin += WORDS_PER_BYTE_COUNTER) {
        const size_t end = smaller(words, begin + WORDS_PER_BYTE_COUNTER);
#pragma GCC unroll 4
        for (size_t p = 0; p < windows; p++)
            bytes[p] = _mm256_setzero_si256();
        for (size_t w = begin; w < end; w++) {
            const __m256i weight = _mm256_loadu_si256((const __m256i *)(weights + w * LANES));
#pragma GCC unroll 4
            for (size_t p = 0; p < windows; p++) {
                const __m256i x = _mm256_xor_si256(weight, _mm256_set1_epi64x((int64_t)window[p * words + w]));
                const __m256i low = _mm256_shuffle_epi8(ones, _mm256_and_si256(x, low_half));
                const __m256i high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(x, 4), low_half));
                bytes[p] = _mm256_add_epi8(bytes[p], _mm256_add_epi8(low, high));
            }
        }
#pragma GCC unroll 4
        for (size_t p = 0; p < windows; p++) /* the sum of a lane's eight bytes */
            differing[p] = _mm256_add_epi64(differing[p], _mm256_sad_epu8(bytes[p], _mm256_setzero_si256()));
    }
    if (windows == 1)
        store_window(differing[0], length, dots);
    else
        store_four_windows(differing, length, dots);
}

TARGET static void run(const uint64_t *windows, size_t window_count, const uint64_t *weights, size_t filter_count,
                       size_t words, int32_t length, int32_t *dots) {
    for (size_t f = 0; f < filter_count; f += LANES) {
        size_t p = 0;
        for (; p + 4 <= window_count; p += 4)
            block(windows + p * words, 4, weights + f * words, words, length, dots + f * DOT_TILE + p);
        for (; p < window_count; p++)
            block(windows + p * words, 1, weights + f * words, words, length, dots + f * DOT_TILE + p);
    }
}

const dot_kernel dot_avx2 = {.lanes = LANES, .run = run};
#endif
