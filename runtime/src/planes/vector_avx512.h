/* Vertical counters on 512-bit vectors (AVX-512F). See adders.h. */
#ifndef BNNCC_VECTOR_AVX512_H
#define BNNCC_VECTOR_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
typedef __m512i V;
#define load(p) _mm512_load_si512((const void *)(p))
#define store(p, v) _mm512_store_si512((void *)(p), v)
#define spread(p) _mm512_set1_epi64((long long)*(p))
#define invert(v) _mm512_ternarylogic_epi64(v, v, v, 0x55)
#define xor2 _mm512_xor_si512
#define and2 _mm512_and_si512
#define or2 _mm512_or_si512
#define xor3(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0x96)
#define majority(a, b, c) _mm512_ternarylogic_epi64(a, b, c, 0xe8)
#define select(m, a, b) _mm512_ternarylogic_epi64(m, a, b, 0xca)
/* The majority of a, b and c: bit 4 a + 2 b + c of the immediate is its value. */
#define CARRY_BIT(i, na, nb, nc) (((((i) >> 2 & 1) ^ (na)) + (((i) >> 1 & 1) ^ (nb)) + (((i) & 1) ^ (nc))) >> 1 << (i))
#define CARRY_TABLE(na, nb, nc)                                                                                        \
    (CARRY_BIT(0, na, nb, nc) | CARRY_BIT(1, na, nb, nc) | CARRY_BIT(2, na, nb, nc) | CARRY_BIT(3, na, nb, nc) |       \
     CARRY_BIT(4, na, nb, nc) | CARRY_BIT(5, na, nb, nc) | CARRY_BIT(6, na, nb, nc) | CARRY_BIT(7, na, nb, nc))
#define full_add(a, b, c, na, nb, nc)                                                                                  \
    do {                                                                                                               \
        const V t_ = xor2(a, b);                                                                                       \
        b = _mm512_ternarylogic_epi64(a, b, c, CARRY_TABLE(na, nb, nc));                                               \
        a = xor2(t_, c);                                                                                               \
    } while (0)
#define plane(p, n) load(p)
#define FETCHES_WORDS

#endif /* BNNCC_VECTOR_AVX512_H */
