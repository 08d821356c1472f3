/* Checked allocation and error messages. */
#include "checked.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void *allocate(size_t count, size_t size) {
    const size_t line = 64;
    bool overflow = false;
    const size_t bytes = plus(times(count, size, &overflow), line, &overflow);
    if (overflow)
        return NULL;
    /* aligned_alloc wants a multiple of the alignment; at least one line, so that an empty array is not NULL. */
    return aligned_alloc(line, bytes / line * line);
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
