/* Vertical counters on 64-bit words: what the other instruction sets do, in plain C. See adders.h. */
#ifndef BNNCC_VECTOR_PORTABLE_H
#define BNNCC_VECTOR_PORTABLE_H

#include <stdint.h>

#define TARGET
typedef uint64_t V;
#define load(p) (*(const V *)(const void *)(p))
#define store(p, v) (*(V *)(void *)(p) = (v))
#define spread(p) (*(p))
#define invert(v) (~(v))
#define xor2(a, b) ((a) ^ (b))
#define and2(a, b) ((a) & (b))
#define or2(a, b) ((a) | (b))
#define xor3(a, b, c) ((a) ^ (b) ^ (c))
#define select(m, a, b) (((m) & (a)) | (~(m) & (b)))
#define majority(a, b, c) (((a) & (b)) | ((a) & (c)) | ((b) & (c)))
#define full_add(a, b, c, na, nb, nc)                                                                                  \
    do {                                                                                                               \
        const V t_ = (a) ^ (b);                                                                                        \
        b = ((a) & (b)) | (t_ & (c));                                                                                  \
        a = t_ ^ (c);                                                                                                  \
    } while (0)
#define plane(p, n) ((n) ? ~load(p) : load(p))

#endif /* BNNCC_VECTOR_PORTABLE_H */
