/* Packed signs: bit-matrix transposition, planes to pixels, and signs to floats. */
#include "signs.h"
#include "checked.h"
#include "parallel.h"

/* The matrix is cut in four; the two blocks off the diagonal change places; then the same within each block. All
 * blocks of one size are done together, by masks: block_mask has ones in the low half of each block's columns. A block
 * of rows depends on none below it, so those that begin beyond the columns asked for need not be done. */
void transpose_64x64(uint64_t rows[64], size_t columns) {
    uint64_t block_mask = 0x00000000ffffffff;
    for (size_t half = 32; half > 0; half /= 2) {
        for (size_t block = 0; block < columns; block += 2 * half)
            for (size_t r = block; r < block + half; r++) {
                const uint64_t differ = (rows[r] >> half ^ rows[r + half]) & block_mask;
                rows[r] ^= differ << half;
                rows[r + half] ^= differ;
            }
        block_mask ^= block_mask << half / 2;
    }
}

transpose_function *transpose_for(bnncc_isa isa) {
#if defined(__x86_64__)
    if (isa == BNNCC_ISA_AVX512BW || isa == BNNCC_ISA_AVX512VPOPCNTDQ)
        return transpose_64x64_avx512;
#endif
    (void)isa;
    return transpose_64x64;
}

void planes_to_pixels(const uint8_t *planes, size_t plane_bytes, const uint8_t *end, size_t channels, size_t width,
                      transpose_function *transpose, uint64_t *pixels) {
    const size_t words = sign_words(channels), row_bytes = sign_bytes(width);
    for (size_t x = 0; x < width; x += 64) {
        const size_t columns = smaller(width - x, 64), bytes = smaller(row_bytes - x / 8, 8);
        for (size_t word = 0; word < words; word++) {
            const size_t rows = smaller(channels - word * 64, 64);
            const uint8_t *row = planes + word * 64 * plane_bytes + x / 8;
            uint64_t block[64] = {0};
            for (size_t c = 0; c < rows; c++, row += plane_bytes)
                /* Bits beyond the row end in columns that are not stored, so eight bytes may be read where the tensor
                 * has them, whatever they are: that is one load instead of a loop over bytes. */
                block[c] = load_word(row, (size_t)(end - row) >= 8 ? 8 : bytes);
            transpose(block, columns);
            for (size_t column = 0; column < columns; column++)
                pixels[(x + column) * words + word] = block[column];
        }
    }
}

typedef struct unpack_job {
    const uint8_t *bits;
    size_t width;
    float *y;
} unpack_job;

static void unpack_rows(void *argument, size_t begin, size_t end) {
    const unpack_job *job = argument;
    for (size_t row = begin; row < end; row++) {
        const uint8_t *bits = job->bits + row * sign_bytes(job->width);
        float *y = job->y + row * job->width;
        for (size_t j = 0; j < job->width; j++)
            y[j] = (float)(2 * (bits[j / 8] >> j % 8 & 1) - 1);
    }
}

bnncc_status bnncc_unpack_signs(const uint8_t *bits, int64_t rows, int64_t width, float *y,
                                const bnncc_parallel *parallel, bnncc_error *error) {
    bool overflow = false;
    if (rows < 0 || (uint64_t)rows > SIZE_MAX)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the number of rows is negative or too large");
    if (check_size("width", width, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    times(times((size_t)rows, (size_t)width, &overflow), sizeof(float), &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the tensor's size overflows");
    if (rows == 0)
        return BNNCC_OK;
    if (!bits || !y)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is NULL", bits ? "y" : "bits");
    unpack_job job = {bits, (size_t)width, y};
    parallel_ranges(parallel, (size_t)rows, (size_t)width, unpack_rows, &job);
    return BNNCC_OK;
}
