/* The windows of a convolution, and the taps of any: where each output pixel looks, and the bits it sees there.
 *
 * A window is the K = kernel_height * kernel_width * (in_channels / group) signs that one output pixel of one group
 * depends on, packed without gaps in (row, column, channel) order. */
#ifndef BNNCC_WINDOWS_H
#define BNNCC_WINDOWS_H

#include "bnncc.h"

#include <stdbool.h>

/* The taps [first_row, end_row) x [first_column, end_column) lie in the input, the others in the padding. */
typedef struct window {
    int64_t row, column; /* of tap (0, 0) in the input; negative in the padding */
    int64_t first_row, end_row, first_column, end_column;
} window;

static inline bool window_touches_padding(const bnncc_conv_params *conv, const window *window) {
    return window->end_row - window->first_row < conv->kernel_shape[0] ||
           window->end_column - window->first_column < conv->kernel_shape[1];
}

/* Which of the taps at first, first + dilation, ... lie in [0, size): those in [*begin, *end). */
void taps_inside(int64_t first, int64_t dilation, int64_t taps, int64_t size, int64_t *begin, int64_t *end);

/* The windows of rows * columns output pixels, row by row, from output pixel (row, column). */
void windows_locate(const bnncc_conv_params *conv, int64_t height, size_t row, size_t rows, size_t column,
                    size_t columns, window *windows);

/* Their bits in one group of one image.
 * pixels: the image, [height][width][ceil(in_channels / 64)] words as planes_to_pixels makes them.
 * bits: [count][ceil(K / 64)] words; taps in the padding are 1 where pad_value is +1, else 0. */
void windows_gather(const bnncc_conv_params *conv, const uint64_t *pixels, size_t group, const window *windows,
                    size_t count, uint64_t *bits);

#endif /* BNNCC_WINDOWS_H */
