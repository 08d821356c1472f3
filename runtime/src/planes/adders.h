/* Adding planes to vertical counters, for any vector type: to be included after a vector_*.h, by one file per
 * instruction set.
 *
 * vector_*.h defines
 *     TARGET                  function attributes
 *     V                       the vector type, a lane per bit
 *     load(p), store(p, v)    aligned
 *     spread(p)               the 64-bit word at p in all lanes
 *     invert(v), xor2, and2, or2(a, b), xor3, majority(a, b, c), select(mask, a, b)
 *     full_add(a, b, c, na, nb, nc)  a := a ^ b ^ c, b := their majority. Where planes come as they are, na, nb, nc
 *                             (constants) tell which of them stand for their complements: b is right, and a stands for
 *                             its complement where an odd number of them did
 *     plane(p, n)             load; inverted where n (a constant) is 1, unless full_add sees to it
 *     HALVES                  2 where a vector has two counters for each lane, in its halves; then also
 *     load_lanes(p), store_lanes(p, v)  a vector of lanes in both halves, the lower half
 *     low_half(v), swap_halves(v)  zeros in the upper half; the halves exchanged
 *     two_planes(p, q)        a plane for each half
 *     FETCHES_WORDS           where it is faster to load four numbers of planes at a time and take them apart
 * and the includer
 *     FETCH(n)                begins a unit of n planes, as FETCH_INDICES does for a list of 16-bit numbers
 *     PLANE(k, n)             the unit's plane k, as plane() gives it; INDEX(unit, k) is its number in such a list
 *     L                       how many counters there are: c0 to c(L - 1), of which plane k holds bit k of every count
 *
 * Planes come in units of 16 and of 8. The adders of eight form a tree, so that few of them wait for another. */
#ifndef BNNCC_ADDERS_H
#define BNNCC_ADDERS_H

#include "counters.h"

#include <stdint.h>
#include <string.h>

#ifdef FETCHES_WORDS /* four numbers at a time */
#define FETCH_INDICES(n, unit, index)                                                                                  \
    uint64_t unit[(n) / 4];                                                                                            \
    memcpy(unit, index, sizeof unit);                                                                                  \
    index += (n)
#define INDEX(unit, k) ((k) % 4 == 3 ? (unit)[(k) / 4] >> 48 : (uint64_t)(uint16_t)((unit)[(k) / 4] >> (k) % 4 * 16))
#else
#define FETCH_INDICES(n, unit, index)                                                                                  \
    const uint16_t *unit = index;                                                                                      \
    index += (n)
#define INDEX(unit, k) ((size_t)(unit)[k])
#endif

/* Adds x, of weight 2^k, to the counters from c_k on. */
#define HALF(k, c)                                                                                                     \
    if (L > (k)) {                                                                                                     \
        const V sum_ = xor2(c, x_);                                                                                    \
        x_ = and2(c, x_);                                                                                              \
        c = sum_;                                                                                                      \
    }
#define RIPPLE_FROM_6                                                                                                  \
    HALF(6, c6)                                                                                                        \
    HALF(7, c7)                                                                                                        \
    HALF(8, c8) HALF(9, c9) HALF(10, c10) HALF(11, c11) HALF(12, c12) HALF(13, c13) HALF(14, c14) HALF(15, c15)

/* Eight planes of a unit, from plane K on, inverted where N is 1: the carry of weight 8 goes to `out`. */
#define ADD_8(K, N, out)                                                                                               \
    do {                                                                                                               \
        V s0 = PLANE(K, N), h0 = PLANE(K + 1, N), z_ = PLANE(K + 2, N);                                                \
        full_add(s0, h0, z_, N, N, N);                                                                                 \
        V s1 = PLANE(K + 3, N), h1 = PLANE(K + 4, N);                                                                  \
        z_ = PLANE(K + 5, N);                                                                                          \
        full_add(s1, h1, z_, N, N, N);                                                                                 \
        V h2 = PLANE(K + 6, N);                                                                                        \
        full_add(s0, h2, s1, N, N, N);                                                                                 \
        full_add(h0, h1, h2, 0, 0, 0);                                                                                 \
        V h3 = PLANE(K + 7, N);                                                                                        \
        full_add(s0, h3, c0, N, N, 0);                                                                                 \
        c0 = s0;                                                                                                       \
        full_add(h0, h3, c1, 0, 0, 0);                                                                                 \
        c1 = h0;                                                                                                       \
        full_add(h1, h3, c2, 0, 0, 0);                                                                                 \
        c2 = h1;                                                                                                       \
        (out) = h3;                                                                                                    \
    } while (0)

/* Sixteen planes, the first eight inverted where N0 is 1, the others where N1 is: the carry of weight 16 goes to `out`.
 */
#define UNIT_16(N0, N1, out)                                                                                           \
    do {                                                                                                               \
        FETCH(16);                                                                                                     \
        V first_, second_;                                                                                             \
        ADD_8(0, N0, first_);                                                                                          \
        ADD_8(8, N1, second_);                                                                                         \
        full_add(c3, second_, first_, 0, 0, 0);                                                                        \
        (out) = second_;                                                                                               \
    } while (0)

#define UNIT_8(N, out)                                                                                                 \
    do {                                                                                                               \
        FETCH(8);                                                                                                      \
        V first_;                                                                                                      \
        ADD_8(0, N, first_);                                                                                           \
        (out) = and2(c3, first_);                                                                                      \
        c3 = xor2(c3, first_);                                                                                         \
    } while (0)

/* Carries of weight 16 wait for a second one, and those two make of weight 32 for a second one. */
#define CARRY_16(x)                                                                                                    \
    do {                                                                                                               \
        if (waiting & 1) {                                                                                             \
            full_add(c4, wait16, x, 0, 0, 0);                                                                          \
            if (waiting & 2) {                                                                                         \
                full_add(c5, wait32, wait16, 0, 0, 0);                                                                 \
                V x_ = wait32;                                                                                         \
                RIPPLE_FROM_6                                                                                          \
            } else {                                                                                                   \
                wait32 = wait16;                                                                                       \
            }                                                                                                          \
        } else {                                                                                                       \
            wait16 = x;                                                                                                \
        }                                                                                                              \
        waiting++;                                                                                                     \
    } while (0)

/* Carries that still wait, once all units are added. */
#define FINISH_CARRIES                                                                                                 \
    if (waiting & 1) {                                                                                                 \
        V x_ = wait16;                                                                                                 \
        HALF(4, c4)                                                                                                    \
        if (waiting & 2) {                                                                                             \
            full_add(c5, wait32, x_, 0, 0, 0);                                                                         \
            x_ = wait32;                                                                                               \
        } else {                                                                                                       \
            HALF(5, c5)                                                                                                \
        }                                                                                                              \
        RIPPLE_FROM_6                                                                                                  \
    } else if (waiting & 2) {                                                                                          \
        V x_ = wait32;                                                                                                 \
        HALF(5, c5)                                                                                                    \
        RIPPLE_FROM_6                                                                                                  \
    }

#define FOR_COUNTERS(DO)                                                                                               \
    DO(0, c0)                                                                                                          \
    DO(1, c1)                                                                                                          \
    DO(2, c2)                                                                                                          \
    DO(3, c3)                                                                                                          \
    DO(4, c4)                                                                                                          \
    DO(5, c5)                                                                                                          \
    DO(6, c6) DO(7, c7) DO(8, c8) DO(9, c9) DO(10, c10) DO(11, c11) DO(12, c12) DO(13, c13) DO(14, c14) DO(15, c15)
#define DECLARE(k, c) V c = {0};

#endif /* BNNCC_ADDERS_H */
