/* The dot kernel in plain C: the definition that the others repeat. */
#include "../signs.h"
#include "dot.h"

static void run(const uint64_t *windows, size_t window_count, const uint64_t *weights, size_t filter_count,
                size_t words, int32_t length, int32_t *dots) {
    for (size_t f = 0; f < filter_count; f++)
        for (size_t p = 0; p < window_count; p++) {
            int32_t differing = 0;
            for (size_t w = 0; w < words; w++)
                differing += (int32_t)popcount(windows[p * words + w] ^ weights[f * words + w]);
            dots[f * DOT_TILE + p] = length - 2 * differing;
        }
}

const dot_kernel dot_portable = {.lanes = 1, .run = run};
