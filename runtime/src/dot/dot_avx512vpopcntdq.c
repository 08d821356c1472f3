/* The dot kernel for AVX-512 with VPOPCNTDQ, the instruction that counts the ones of each 64-bit lane. */
#include "dot.h"

#if defined(__x86_64__)
#include "store_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
enum { LANES = 8 };

/* `registers` x 8 filters by `windows` windows, all counters in registers: a loaded weight serves all windows, and a
 * loaded window word serves all filters. Both counts are constants at every call, so that the loops unroll. */
TARGET __attribute__((always_inline)) static inline void block(const uint64_t *window, size_t windows,
                                                               const uint64_t *weights, size_t registers, size_t words,
                                                               int32_t length, int32_t *dots) {
    __m512i differing[2][8], weight[2];
#pragma GCC unroll 2
    for (size_t r = 0; r < registers; r++)
#pragma GCC unroll 8
        for (size_t p = 0; p < windows; p++)
            differing[r][p] = _mm512_setzero_si512();
    for (size_t w = 0; w < words; w++) {
#pragma GCC unroll 2
        for (size_t r = 0; r < registers; r++)
            weight[r] = _mm512_loadu_si512(weights + (r * words + w) * LANES);
#pragma GCC unroll 8
        for (size_t p = 0; p < windows; p++) {
            const __m512i x = _mm512_set1_epi64((int64_t)window[p * words + w]);
#pragma GCC unroll 2
            for (size_t r = 0; r < registers; r++)
                differing[r][p] =
                    _mm512_add_epi64(differing[r][p], _mm512_popcnt_epi64(_mm512_xor_si512(x, weight[r])));
        }
    }
#pragma GCC unroll 2
    for (size_t r = 0; r < registers; r++)
#pragma GCC unroll 2
        for (size_t p = 0; p < windows; p += 4) {
            if (windows == 1)
                store_window(differing[r][p], length, dots + r * LANES * DOT_TILE);
            else
                store_four_windows(&differing[r][p], length, dots + r * LANES * DOT_TILE + p);
        }
}

TARGET __attribute__((always_inline)) static inline void filters(const uint64_t *windows, size_t window_count,
                                                                 const uint64_t *weights, size_t registers,
                                                                 size_t words, int32_t length, int32_t *dots) {
    size_t p = 0;
    for (; p + 8 <= window_count; p += 8)
        block(windows + p * words, 8, weights, registers, words, length, dots + p);
    for (; p + 4 <= window_count; p += 4)
        block(windows + p * words, 4, weights, registers, words, length, dots + p);
    for (; p < window_count; p++)
        block(windows + p * words, 1, weights, registers, words, length, dots + p);
}

TARGET static void run(const uint64_t *windows, size_t window_count, const uint64_t *weights, size_t filter_count,
                       size_t words, int32_t length, int32_t *dots) {
    size_t f = 0;
    for (; f + LANES < filter_count; f += 2 * LANES)
        filters(windows, window_count, weights + f * words, 2, words, length, dots + f * DOT_TILE);
    if (f < filter_count)
        filters(windows, window_count, weights + f * words, 1, words, length, dots + f * DOT_TILE);
}

const dot_kernel dot_avx512vpopcntdq = {.lanes = LANES, .run = run};
#endif
