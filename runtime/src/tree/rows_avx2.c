/* Row kernel for AVX2: ones are counted by looking up each half byte in a table of 16 with a byte shuffle. */
#include "rows.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE TARGET __attribute__((always_inline)) static inline
enum { STEP = 4 };
typedef __m256i vector;

INLINE vector load(const uint64_t *from) { return _mm256_load_si256((const vector *)from); }
INLINE void store(uint64_t *to, vector a) { _mm256_store_si256((vector *)to, a); }
INLINE vector zero(void) { return _mm256_setzero_si256(); }
INLINE vector and_(vector a, vector b) { return _mm256_and_si256(a, b); }
INLINE vector or_(vector a, vector b) { return _mm256_or_si256(a, b); }
INLINE vector xor_(vector a, vector b) { return _mm256_xor_si256(a, b); }
INLINE vector and_not(vector a, vector b) { return _mm256_andnot_si256(b, a); }
INLINE vector not_or(vector a, vector b) { return _mm256_andnot_si256(a, _mm256_xor_si256(b, _mm256_set1_epi8(-1))); }
INLINE vector add_ones(vector counter, vector a) {
    const vector ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const vector low_half = _mm256_set1_epi8(15);
    const vector low = _mm256_shuffle_epi8(ones, _mm256_and_si256(a, low_half));
    const vector high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16(a, 4), low_half));
    return _mm256_add_epi64(counter, _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256()));
}
INLINE uint64_t total(vector counter) {
    const __m128i sum = _mm_add_epi64(_mm256_castsi256_si128(counter), _mm256_extracti128_si256(counter, 1));
    return (uint64_t)_mm_extract_epi64(sum, 0) + (uint64_t)_mm_extract_epi64(sum, 1);
}
INLINE bool is_zero(vector a) { return _mm256_testz_si256(a, a); }

#include "rows_loops.h"

const row_kernel rows_avx2 = {.distances = distances, .combine = combine, .edge = edge};
#endif
