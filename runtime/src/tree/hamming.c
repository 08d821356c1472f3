/* Hamming distances between packed filters. */
#include "../checked.h"
#include "../signs.h"
#include "rows.h"
#include "tree.h"

#include <stdlib.h>

bnncc_status bnncc_hamming_distances(const uint8_t *a, int64_t a_count, const uint8_t *b, int64_t b_count,
                                     int64_t length, int32_t *distances, bnncc_isa isa, bnncc_error *error) {
    bool overflow = false;
    bnncc_status status;
    if (check_size("a_count", a_count, 0, error) || check_size("b_count", b_count, 0, error) ||
        check_filter_length(length, error))
        return BNNCC_INVALID_ARGUMENT;
    if ((status = bnncc_isa_resolve(isa, &isa, error)))
        return status;
    const size_t words = row_words((size_t)length);
    const size_t a_words = times((size_t)a_count, words, &overflow), b_words = times((size_t)b_count, words, &overflow);
    times(times((size_t)a_count, (size_t)b_count, &overflow), sizeof *distances, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the distances or filters overflows");
    if (a_count == 0 || b_count == 0)
        return BNNCC_OK;
    if (!a || !b || !distances)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is NULL", !a ? "a" : !b ? "b" : "distances");
    uint64_t *a_rows = allocate(a_words, sizeof *a_rows), *b_rows = allocate(b_words, sizeof *b_rows);
    if (!a_rows || !b_rows) {
        free(a_rows);
        free(b_rows);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for %lld filters", (long long)(a_count + b_count));
    }
    rows_load(a, (size_t)a_count, (size_t)length, a_rows, words, words);
    rows_load(b, (size_t)b_count, (size_t)length, b_rows, words, words);
    const row_kernel *kernel = row_kernel_for(isa);
    for (size_t i = 0; i < (size_t)a_count; i++)
        kernel->distances(a_rows + i * words, b_rows, (size_t)b_count, words, distances + i * (size_t)b_count);
    free(a_rows);
    free(b_rows);
    return BNNCC_OK;
}
