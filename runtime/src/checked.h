/* Sizes that cannot overflow unnoticed, memory that cannot fail unnoticed, and errors with a reason. */
#ifndef BNNCC_CHECKED_H
#define BNNCC_CHECKED_H

#include "bnncc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No dimension, stride, dilation, pad or count may exceed this. Positions in a padded input, such as
 * output * stride + tap * dilation - pad, are then sums of few products of 31-bit numbers and fit int64_t. */
#define SIZE_LIMIT INT64_C(0x7fffffff)

/* The largest number of products in one dot product: every partial sum is an integer that float32 holds exactly. */
#define DOT_LIMIT (INT64_C(1) << 24)

/* a * b; sets *overflow (and never clears it) where that exceeds size_t, so that a chain is checked once at its end. */
static inline size_t times(size_t a, size_t b, bool *overflow) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        *overflow = true;
    return product;
}

static inline size_t plus(size_t a, size_t b, bool *overflow) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        *overflow = true;
    return sum;
}

/* ceil(a / b) for b > 0, without computing a + b. */
static inline size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Memory for count elements of the given size, on a cache line's boundary; NULL where there is none or the product
 * overflows. Never NULL for lack of elements. To be given to free(). */
void *allocate(size_t count, size_t size);

/* Writes the message (where error is not NULL) and returns the status: `return fail(...)`. */
__attribute__((format(printf, 3, 4))) bnncc_status fail(bnncc_error *error, bnncc_status status, const char *format,
                                                        ...);

/* BNNCC_INVALID_ARGUMENT with the value's name unless low <= value <= SIZE_LIMIT. */
bnncc_status check_size(const char *name, int64_t value, int64_t low, bnncc_error *error);

/* BNNCC_INVALID_ARGUMENT with the value's place unless no threshold is NaN and every direction is +1 or -1. */
bnncc_status check_comparison(const float *thresholds, size_t threshold_count, const int8_t *directions,
                              size_t direction_count, bnncc_error *error);

/* The same of directions alone. */
bnncc_status check_directions(const int8_t *directions, size_t count, bnncc_error *error);

#endif /* BNNCC_CHECKED_H */
