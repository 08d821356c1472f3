/* Vertical counters on 256-bit vectors with AVX-512's three-input logic (AVX-512VL). See adders.h. */
#ifndef BNNCC_VECTOR_AVX512VL_H
#define BNNCC_VECTOR_AVX512VL_H

#include <immintrin.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
typedef __m256i V;
#define load(p) _mm256_load_si256((const __m256i *)(p))
#define store(p, v) _mm256_store_si256((__m256i *)(p), v)
#define spread(p) _mm256_set1_epi64x((long long)*(p))
#define invert(v) _mm256_ternarylogic_epi64(v, v, v, 0x55)
#define xor2 _mm256_xor_si256
#define and2 _mm256_and_si256
#define or2 _mm256_or_si256
#define xor3(a, b, c) _mm256_ternarylogic_epi64(a, b, c, 0x96)
#define majority(a, b, c) _mm256_ternarylogic_epi64(a, b, c, 0xe8)
#define select(m, a, b) _mm256_ternarylogic_epi64(m, a, b, 0xca)
/* The carry from b, c and t = a ^ b: c where a and b differ, else b. Bit 4b + 2c + t of the immediate is its value. */
#define CARRY_BIT(i, na, nb, nc)                                                                                       \
    (((((i) & 1) ^ (na) ^ (nb)) ? (((i) >> 1 & 1) ^ (nc)) : (((i) >> 2 & 1) ^ (nb))) << (i))
#define CARRY_TABLE(na, nb, nc)                                                                                        \
    (CARRY_BIT(0, na, nb, nc) | CARRY_BIT(1, na, nb, nc) | CARRY_BIT(2, na, nb, nc) | CARRY_BIT(3, na, nb, nc) |       \
     CARRY_BIT(4, na, nb, nc) | CARRY_BIT(5, na, nb, nc) | CARRY_BIT(6, na, nb, nc) | CARRY_BIT(7, na, nb, nc))
#define full_add(a, b, c, na, nb, nc)                                                                                  \
    do {                                                                                                               \
        const V t_ = xor2(a, b);                                                                                       \
        b = _mm256_ternarylogic_epi64(b, c, t_, CARRY_TABLE(na, nb, nc));                                              \
        a = xor2(t_, c);                                                                                               \
    } while (0)
#define plane(p, n) load(p)
#define FETCHES_WORDS

#endif /* BNNCC_VECTOR_AVX512VL_H */
