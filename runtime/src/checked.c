/* Checked allocation and error messages. */
#define _POSIX_C_SOURCE                                                                                                \
    200809L /* posix_memalign: unlike aligned_alloc it takes any size, so no slack hides an overrun */
#include "checked.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void *allocate(size_t count, size_t size) {
    const size_t cache_line = 64;
    bool overflow = false;
    const size_t bytes = times(count, size, &overflow);
    void *memory = NULL;
    /* One byte at least, so that an empty array is not NULL. */
    if (overflow || posix_memalign(&memory, cache_line, bytes ? bytes : 1))
        return NULL;
    return memory;
}

bnncc_status fail(bnncc_error *error, bnncc_status status, const char *format, ...) {
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

bnncc_status check_size(const char *name, int64_t value, int64_t low, bnncc_error *error) {
    if (value < low || value > SIZE_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is %" PRId64 ", outside [%" PRId64 ", %" PRId64 "]", name, value,
                    low, SIZE_LIMIT);
    return BNNCC_OK;
}

bnncc_status check_directions(const int8_t *directions, size_t count, bnncc_error *error) {
    for (size_t i = 0; i < count; i++)
        if (directions[i] != 1 && directions[i] != -1)
            return fail(error, BNNCC_INVALID_ARGUMENT, "direction %zu is %d, not +1 or -1", i, directions[i]);
    return BNNCC_OK;
}

bnncc_status check_comparison(const float *thresholds, size_t threshold_count, const int8_t *directions,
                              size_t direction_count, bnncc_error *error) {
    for (size_t i = 0; i < threshold_count; i++)
        if (thresholds[i] != thresholds[i])
            return fail(error, BNNCC_INVALID_ARGUMENT, "threshold %zu is NaN", i);
    return check_directions(directions, direction_count, error);
}
