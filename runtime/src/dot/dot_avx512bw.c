/* The dot kernel for AVX-512BW: ones are counted by looking up each half byte in a table of 16 with a byte shuffle. */
#include "dot.h"

#if defined(__x86_64__)
#include "../checked.h"
#include "store_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* A byte of a counter grows by at most 8 per word, so after 31 words (248) it is emptied before it could overflow. */
enum { LANES = 8, WORDS_PER_BYTE_COUNTER = 31 };

/* 8 filters by `windows` windows; `windows` is a constant at every call, so that the loops unroll. */
TARGET __attribute__((always_inline)) static inline void
block(const uint64_t *window, size_t windows, const uint64_t *weights, size_t words, int32_t length, int32_t *dots) {
    const __m512i ones = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low_half = _mm512_set1_epi8(15);
    __m512i differing[8], bytes[8];
#pragma GCC unroll 8
    for (size_t p = 0; p < windows; p++)
        differing[p] = _mm512_setzero_si512();
    for (size_t begin = 0; begin < words; begin += WORDS_PER_BYTE_COUNTER) {
        const size_t end = smaller(words, begin + WORDS_PER_BYTE_COUNTER);
#pragma GCC unroll 8
        for (size_t p = 0; p < windows; p++)
            bytes[p] = _mm512_setzero_si512();
        for (size_t w = begin; w < end; w++) {
            const __m512i weight = _mm512_loadu_si512(weights + w * LANES);
#pragma GCC unroll 8
            for (size_t p = 0; p < windows; p++) {
                const __m512i x = _mm512_xor_si512(weight, _mm512_set1_epi64((int64_t)window[p * words + w]));
                const __m512i low = _mm512_shuffle_epi8(ones, _mm512_and_si512(x, low_half));
                const __m512i high = _mm512_shuffle_epi8(ones, _mm512_and_si512(_mm512_srli_epi16(x, 4), low_half));
                bytes[p] = _mm512_add_epi8(bytes[p], _mm512_add_epi8(low, high));
            }
        }
#pragma GCC unroll 8
        for (size_t p = 0; p < windows; p++) /* the sum of a lane's eight bytes */
            differing[p] = _mm512_add_epi64(differing[p], _mm512_sad_epu8(bytes[p], _mm512_setzero_si512()));
    }
#pragma GCC unroll 2
    for (size_t p = 0; p < windows; p += 4) {
        if (windows == 1)
            store_window(differing[p], length, dots);
        else
            store_four_windows(&differing[p], length, dots + p);
    }
}

TARGET static void run(const uint64_t *windows, size_t window_count, const uint64_t *weights, size_t filter_count,
                       size_t words, int32_t length, int32_t *dots) {
    for (size_t f = 0; f < filter_count; f += LANES) {
        size_t p = 0;
        for (; p + 8 <= window_count; p += 8)
            block(windows + p * words, 8, weights + f * words, words, length, dots + f * DOT_TILE + p);
        for (; p + 4 <= window_count; p += 4)
            block(windows + p * words, 4, weights + f * words, words, length, dots + f * DOT_TILE + p);
        for (; p < window_count; p++)
            block(windows + p * words, 1, weights + f * words, words, length, dots + f * DOT_TILE + p);
    }
}

const dot_kernel dot_avx512bw = {.lanes = LANES, .run = run};
#endif
