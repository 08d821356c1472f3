/* What the AVX-512 row kernels have in common: all but the counting of ones. The including file defines TARGET. */
#include "rows.h"

#include <immintrin.h>

#define INLINE TARGET __attribute__((always_inline)) static inline
enum { STEP = 8 };
typedef __m512i vector;

INLINE vector load(const uint64_t *from) { return _mm512_load_si512(from); }
INLINE void store(uint64_t *to, vector a) { _mm512_store_si512(to, a); }
INLINE vector zero(void) { return _mm512_setzero_si512(); }
INLINE vector and_(vector a, vector b) { return _mm512_and_si512(a, b); }
INLINE vector or_(vector a, vector b) { return _mm512_or_si512(a, b); }
INLINE vector xor_(vector a, vector b) { return _mm512_xor_si512(a, b); }
INLINE vector and_not(vector a, vector b) { return _mm512_andnot_si512(b, a); }
INLINE vector not_or(vector a, vector b) { return _mm512_ternarylogic_epi64(a, b, b, 0x01); }
INLINE uint64_t total(vector counter) { return (uint64_t)_mm512_reduce_add_epi64(counter); }
INLINE bool is_zero(vector a) { return _mm512_test_epi64_mask(a, a) == 0; }
