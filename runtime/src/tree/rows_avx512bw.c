/* Row kernel for AVX-512BW: ones are counted by looking up each half byte in a table of 16 with a byte shuffle. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "rows_avx512.h"

INLINE vector add_ones(vector counter, vector a) {
    const vector ones = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const vector low_half = _mm512_set1_epi8(15);
    const vector low = _mm512_shuffle_epi8(ones, _mm512_and_si512(a, low_half));
    const vector high = _mm512_shuffle_epi8(ones, _mm512_and_si512(_mm512_srli_epi16(a, 4), low_half));
    return _mm512_add_epi64(counter, _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512()));
}

#include "rows_loops.h"

const row_kernel rows_avx512bw = {.distances = distances, .combine = combine, .edge = edge};
#endif
