/* The windows of a convolution: where each output pixel looks, and the bits it sees there. */
#include "windows.h"
#include "checked.h"
#include "signs.h"

void taps_inside(int64_t first, int64_t dilation, int64_t taps, int64_t size, int64_t *begin, int64_t *end) {
    *begin = first >= 0 ? 0 : -first;
    *end = first >= size ? 0 : size - first;
    if (dilation != 1) { /* divisions take as long as all the rest */
        *begin = (*begin + dilation - 1) / dilation;
        *end = (*end + dilation - 1) / dilation;
    }
    *end = *end < taps ? *end : taps;
    *begin = *begin < *end ? *begin : *end;
}

void windows_locate(const bnncc_conv_params *conv, int64_t height, size_t row, size_t rows, size_t column,
                    size_t columns, window *windows) {
    for (size_t i = 0; i < rows; i++) {
        window here;
        here.row = (int64_t)(row + i) * conv->strides[0] - conv->pads[0];
        taps_inside(here.row, conv->dilations[0], conv->kernel_shape[0], height, &here.first_row, &here.end_row);
        for (size_t j = 0; j < columns; j++) {
            here.column = (int64_t)(column + j) * conv->strides[1] - conv->pads[1];
            taps_inside(here.column, conv->dilations[1], conv->kernel_shape[1], conv->width, &here.first_column,
                        &here.end_column);
            *windows++ = here;
        }
    }
}

/* Any number of channels: tap by tap, bits falling anywhere within words. */
static void gather_bits(const bnncc_conv_params *conv, const uint64_t *pixels, size_t group, const window *window,
                        uint64_t *bits) {
    const size_t pixel_words = sign_words((size_t)conv->in_channels);
    const size_t channels = (size_t)(conv->in_channels / conv->group);
    const size_t begin = group * channels, end = begin + channels;
    const uint64_t padding = conv->pad_value > 0 ? ~UINT64_C(0) : 0;
    bit_writer writer = {bits, 0, 0};
    for (int64_t r = 0; r < conv->kernel_shape[0]; r++) {
        const bool row_inside = r >= window->first_row && r < window->end_row;
        const int64_t y = window->row + r * conv->dilations[0];
        for (int64_t c = 0; c < conv->kernel_shape[1]; c++) {
            const bool inside = row_inside && c >= window->first_column && c < window->end_column;
            const int64_t x = window->column + c * conv->dilations[1];
            const uint64_t *pixel = inside ? pixels + (size_t)(y * conv->width + x) * pixel_words : NULL;
            for (size_t bit = begin, count; bit < end; bit += count) { /* what lies in one word of the pixel */
                count = smaller(end - bit, 64 - bit % 64);
                const uint64_t word = inside ? pixel[bit / 64] >> bit % 64 : padding;
                write_bits(&writer, word & low_bits(count), count);
            }
        }
    }
    finish_bits(&writer);
}

/* Channels of a group in whole words: every tap's bits begin at a word, here and in the pixel. */
static void gather_words(const bnncc_conv_params *conv, const uint64_t *pixels, size_t group, const window *window,
                         uint64_t *bits) {
    const size_t pixel_words = sign_words((size_t)conv->in_channels);
    const size_t tap_words = (size_t)(conv->in_channels / conv->group) / 64;
    const size_t row_words = tap_words * (size_t)conv->kernel_shape[1];
    /* Neighbouring taps of a row are neighbours in memory as well. */
    const bool contiguous = conv->group == 1 && conv->dilations[1] == 1;
    for (int64_t r = window->first_row; r < window->end_row; r++) {
        const int64_t y = window->row + r * conv->dilations[0];
        uint64_t *row = bits + (size_t)r * row_words;
        for (int64_t c = window->first_column; c < window->end_column; c++) {
            const int64_t x = window->column + c * conv->dilations[1];
            const uint64_t *pixel = pixels + (size_t)(y * conv->width + x) * pixel_words + group * tap_words;
            const size_t words = contiguous ? tap_words * (size_t)(window->end_column - c) : tap_words;
            for (size_t w = 0; w < words; w++)
                row[(size_t)c * tap_words + w] = pixel[w];
            if (contiguous)
                break;
        }
    }
}

void windows_gather(const bnncc_conv_params *conv, const uint64_t *pixels, size_t group, const window *windows,
                    size_t count, uint64_t *bits) {
    const size_t channels = (size_t)(conv->in_channels / conv->group);
    const size_t words = sign_words(channels * (size_t)conv->kernel_shape[0] * (size_t)conv->kernel_shape[1]);
    const bool whole_words = channels % 64 == 0;
    for (size_t i = 0; i < count; i++, bits += words) {
        if (!whole_words) {
            gather_bits(conv, pixels, group, &windows[i], bits);
        } else {
            if (window_touches_padding(conv, &windows[i]))
                memset(bits, conv->pad_value > 0 ? 0xff : 0, words * sizeof *bits);
            gather_words(conv, pixels, group, &windows[i], bits);
        }
    }
}
