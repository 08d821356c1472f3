/* Vertical counters on 256-bit vectors (AVX2). See adders.h. */
#ifndef BNNCC_VECTOR_AVX2_H
#define BNNCC_VECTOR_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx2")))
typedef __m256i V;
#define load(p) _mm256_load_si256((const __m256i *)(p))
#define store(p, v) _mm256_store_si256((__m256i *)(p), v)
#define spread(p) _mm256_set1_epi64x((long long)*(p))
#define invert(v) _mm256_xor_si256(v, _mm256_set1_epi64x(-1))
#define xor2 _mm256_xor_si256
#define and2 _mm256_and_si256
#define or2 _mm256_or_si256
#define xor3(a, b, c) xor2(xor2(a, b), c)
#define select(m, a, b) xor2(b, and2(m, xor2(a, b)))
#define majority(a, b, c) select(xor2(a, b), c, a)
#define full_add(a, b, c, na, nb, nc)                                                                                  \
    do {                                                                                                               \
        const V t_ = xor2(a, b);                                                                                       \
        b = or2(and2(a, b), and2(t_, c));                                                                              \
        a = xor2(t_, c);                                                                                               \
    } while (0)
#define plane(p, n) ((n) ? invert(load(p)) : load(p))

#endif /* BNNCC_VECTOR_AVX2_H */
