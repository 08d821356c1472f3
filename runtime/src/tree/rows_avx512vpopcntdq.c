/* Row kernel for AVX-512 with VPOPCNTDQ, the instruction that counts the ones of each 64-bit lane. */
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#include "rows_avx512.h"

INLINE vector add_ones(vector counter, vector a) { return _mm512_add_epi64(counter, _mm512_popcnt_epi64(a)); }

#include "rows_loops.h"

const row_kernel rows_avx512vpopcntdq = {.distances = distances, .combine = combine, .edge = edge};
#endif
