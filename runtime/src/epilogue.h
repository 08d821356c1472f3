/* What becomes of the integer dot products: floats and bits, as all kernels are to make them. */
#ifndef BNNCC_EPILOGUE_H
#define BNNCC_EPILOGUE_H

#include "bnncc.h"
#include "epilogue_steps.h"

typedef void epilogue_floats_function(const int32_t *dots, size_t count, float scale, float shift, float *y);
typedef uint64_t epilogue_signs_function(const int32_t *dots, size_t count, int32_t threshold);

typedef struct epilogue {
    float *scale, *shift; /* one value per channel each; both NULL for no float output */
    int32_t *threshold;   /* one value per channel; NULL for no bits of dot */
    steps steps;          /* of the float output */
    epilogue_floats_function *floats;
    epilogue_signs_function *signs;
} epilogue;

/* Copies the arrays of `from` for `channels` output channels. On failure nothing is left to destroy. */
bnncc_status epilogue_create(epilogue *to, const bnncc_epilogue *from, size_t channels, bnncc_isa isa,
                             bnncc_error *error);
void epilogue_destroy(epilogue *epilogue);

/* The residual and both outputs are given exactly where the epilogue has them. */
bnncc_status epilogue_check_tensors(const epilogue *epilogue, const float *residual, const float *y,
                                    const uint8_t *bits, bnncc_error *error);

/* A kernel makes floats of dot products by `epilogue_floats`, or in a way of its own that rounds the same, and hands
 * them to `epilogue_finish` where there are steps; where there is a threshold it makes bits by `epilogue_signs`, or by
 * comparing counts, else they come from the steps. */

/* y[i] = dots[i] * scale + shift of the channel, for `count` positions. */
static inline void epilogue_floats(const epilogue *epilogue, size_t channel, const int32_t *dots, size_t count,
                                   float *y) {
    epilogue->floats(dots, count, epilogue->scale[channel], epilogue->shift[channel], y);
}

/* Bit i = (dots[i] >= threshold of the channel), for `count` <= 64 positions; the bits above are 0. */
static inline uint64_t epilogue_signs(const epilogue *epilogue, size_t channel, const int32_t *dots, size_t count) {
    return epilogue->signs(dots, count, epilogue->threshold[channel]);
}

/* See steps_function. */
static inline uint64_t epilogue_finish(const epilogue *epilogue, size_t channel, float *values, steps_inputs inputs,
                                       size_t count, float *y) {
    return epilogue->steps.apply(&epilogue->steps, channel, values, inputs, count, y);
}

/* Tensors [image][channel][height] of rows of `width` pixels; NULL where there are none. */
typedef struct epilogue_tensors {
    steps_inputs inputs;
    float *y;
    uint8_t *bits;
    size_t channels, groups, height, width;
} epilogue_tensors;

/* A tile: `rows` x `columns` <= 64 output pixels of an image, from (row, column) on. Tiles of several rows are as wide
 * as the tensors; the others begin at a byte of bits. */
typedef struct epilogue_tile {
    size_t image, row, rows, column, columns;
} epilogue_tile;

/* All outputs of a tile of channels [first, first + count) of one group from their dot products, [count][64]. */
void epilogue_store_tile(const epilogue *epilogue, const epilogue_tensors *to, const epilogue_tile *tile, size_t first,
                         size_t count, const int32_t *dots);

/* The same after `epilogue_floats` and `epilogue_signs`, for kernels that do that in ways of their own: values, lost,
 * are floats that steps are to be taken on; without steps, y has them already. signs: those of dot products, if any. */
void epilogue_finish_tile(const epilogue *epilogue, const epilogue_tensors *to, const epilogue_tile *tile, size_t first,
                          size_t count, float (*values)[64], const uint64_t *signs);

#endif /* BNNCC_EPILOGUE_H */
