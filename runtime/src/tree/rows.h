/* Work on rows of bits that the trees over filters spend their time in, for each instruction set.
 *
 * A row is `words` words, a multiple of ROW_WORDS, and begins on a cache line; the bits beyond a filter's length are 0.
 * A set row is two rows, low and high: for every bit the set of values that it may have, low <= high: {0} is 0, 0; {1}
 * is 1, 1; {0, 1} is 0, 1. */
#ifndef BNNCC_ROWS_H
#define BNNCC_ROWS_H

#include "bnncc.h"

#include <stdbool.h>

/* Words of a cache line and of the widest register. */
enum { ROW_WORDS = 8 };

typedef struct row_kernel {
    /* distances[i]: ones of `row` xor row i of `rows`, for i < count. */
    void (*distances)(const uint64_t *row, const uint64_t *rows, size_t count, size_t words, int32_t *distances);

    /* to = Fitch's combination of the sets a and b: what both allow, where there is no such value both. `to` may not
     * overlap them. Returns whether `to` became another set than it was. */
    bool (*combine)(const uint64_t *a, const uint64_t *b, uint64_t *to, size_t words);

    /* One edge of a tree, seen from above: up = combine(above, sibling), the set that all but the branch below `down`
     * gives; conflicts[0]: in how many bits combine(up, down) and `joining` have no value in common, which is by how
     * many bits the tree grows when `joining` is grafted onto this edge; conflicts[1]: the same for the complement of
     * `joining`, counting also the 64 * words - length bits beyond the filters' length. */
    void (*edge)(const uint64_t *above, const uint64_t *sibling, const uint64_t *down, const uint64_t *joining,
                 uint64_t *up, size_t words, int32_t conflicts[2]);
} row_kernel;

/* `isa`: one that bnncc_isa_resolve gave. */
const row_kernel *row_kernel_for(bnncc_isa isa);

static inline size_t row_words(size_t length) {
    const size_t bits = 64 * ROW_WORDS;
    return (length / bits + (length % bits != 0)) * ROW_WORDS;
}

/* Packed signs [count][ceil(length / 8)] to rows, `stride` words from one to the next. */
void rows_load(const uint8_t *bits, size_t count, size_t length, uint64_t *rows, size_t words, size_t stride);

extern const row_kernel rows_portable;
#if defined(__x86_64__)
extern const row_kernel rows_avx2, rows_avx512bw, rows_avx512vpopcntdq;
#endif

#endif /* BNNCC_ROWS_H */
