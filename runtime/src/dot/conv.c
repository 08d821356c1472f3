/* The dot kernel's convolution.
 *
 * A run works through groups of images, each in two parallel stages:
 * 1. every image row turns from planes (a bit per pixel, channel by channel) into pixel-major words;
 * 2. for every tile of up to DOT_TILE output pixels, every group and every DOT_TILE filters of it: gather the tile's
 *    windows, take the dot products, correct them for zero padding, and store what the epilogue makes of them.
 * Tiles write to bytes of their own, so their order and threads cannot matter. */
#include "conv.h"
#include "checked.h"
#include "dot.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"
#include "windows.h"

#include <stdlib.h>

struct dot_conv {
    bnncc_conv_params params;
    bnncc_isa isa;
    const dot_kernel *kernel;
    const epilogue *epilogue;
    size_t group_filters; /* output channels of a group */
    size_t length;        /* K, the number of products in a dot product */
    size_t words;         /* of a window or a filter */
    size_t out_width;
    size_t group_weights; /* words of a group's interleaved filters */
    uint64_t *weights;    /* [group][group_weights] */
    int32_t *tap_sums;    /* see sum_taps; NULL where no correction for padding is needed */
};

/* ---- Creation ---------------------------------------------------------------------------------------------------- */

/* Interleaves the filters, their bits put from (channel, row, column) order into that of the windows. */
static bool place_weights(dot_conv *conv, const uint8_t *weight) {
    const size_t taps = (size_t)(conv->params.kernel_shape[0] * conv->params.kernel_shape[1]);
    const size_t channels = conv->length / taps, groups = (size_t)conv->params.group;
    bool overflow = false;
    conv->group_weights = dot_weight_count(conv->kernel, conv->group_filters, conv->words, &overflow);
    const size_t count = times(conv->group_weights, groups, &overflow);
    uint64_t *filter = allocate(conv->words, sizeof *filter);
    conv->weights = overflow ? NULL : allocate(count, sizeof *conv->weights);
    if (!filter || !conv->weights) {
        free(filter);
        return false;
    }
    memset(conv->weights, 0, count * sizeof *conv->weights);
    for (size_t f = 0; f < groups * conv->group_filters; f++, weight += sign_bytes(conv->length)) {
        memset(filter, 0, conv->words * sizeof *filter);
        for (size_t channel = 0; channel < channels; channel++)
            for (size_t tap = 0; tap < taps; tap++) {
                const size_t position = tap * channels + channel;
                filter[position / 64] |= (uint64_t)sign_bit(weight, channel * taps + tap) << position % 64;
            }
        dot_place_filter(conv->kernel, conv->weights + f / conv->group_filters * conv->group_weights, conv->words,
                         f % conv->group_filters, filter);
    }
    free(filter);
    return true;
}

/* What zero padding needs. The bits of a tap in the padding are 0, so the kernel counts it as if all its inputs were
 * -1, which adds -(sum of the tap's weights); the exact answer adds nothing. The taps outside the input are those
 * outside a rectangle of taps, so with
 *     tap_sums[i][j][filter] = sum of the filter's weights at taps (row < i, column < j)
 * four terms give the sum inside, and the total less that is to be added, whatever the kernel's size. */
static bool sum_taps(dot_conv *conv, const uint8_t *weight) {
    const size_t rows = (size_t)conv->params.kernel_shape[0], columns = (size_t)conv->params.kernel_shape[1];
    const size_t taps = rows * columns, filters = (size_t)conv->params.out_channels, pitch = columns + 1;
    bool overflow = false;
    const size_t count = times((rows + 1) * pitch, filters, &overflow);
    conv->tap_sums = overflow ? NULL : allocate(count, sizeof *conv->tap_sums);
    if (!conv->tap_sums)
        return false;
    memset(conv->tap_sums, 0, count * sizeof *conv->tap_sums);
    for (size_t f = 0; f < filters; f++, weight += sign_bytes(conv->length)) {
        int32_t *sums = conv->tap_sums + f;
        for (size_t position = 0; position < conv->length; position++) {
            const size_t tap = position % taps;
            sums[((tap / columns + 1) * pitch + tap % columns + 1) * filters] += 2 * sign_bit(weight, position) - 1;
        }
        for (size_t i = 1; i <= rows; i++)
            for (size_t j = 1; j <= columns; j++)
                sums[(i * pitch + j) * filters] += sums[(i * pitch + j - 1) * filters] +
                                                   sums[((i - 1) * pitch + j) * filters] -
                                                   sums[((i - 1) * pitch + j - 1) * filters];
    }
    return true;
}

bnncc_status dot_conv_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, const uint8_t *weight,
                             const epilogue *epilogue, dot_conv **result, bnncc_error *error) {
    const size_t taps = (size_t)(params->kernel_shape[0] * params->kernel_shape[1]);
    const size_t length = (size_t)(params->in_channels / params->group) * taps;
    const bool padded = params->pads[0] || params->pads[1] || params->pads[2] || params->pads[3];
    dot_conv *conv = allocate(1, sizeof *conv);
    if (!conv)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution");
    *conv = (dot_conv){
        .params = *params,
        .isa = isa,
        .kernel = dot_kernel_for(isa),
        .epilogue = epilogue,
        .group_filters = (size_t)(params->out_channels / params->group),
        .length = length,
        .words = sign_words(length),
        .out_width = out_width,
    };
    if (!place_weights(conv, weight) || (padded && params->pad_value == 0 && !sum_taps(conv, weight))) {
        dot_conv_destroy(conv);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution's weights");
    }
    *result = conv;
    return BNNCC_OK;
}

void dot_conv_destroy(dot_conv *conv) {
    if (!conv)
        return;
    free(conv->weights);
    free(conv->tap_sums);
    free(conv);
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* Sizes of one run, and the group of images it is at. */
typedef struct dot_job {
    const dot_conv *conv;
    const uint8_t *x, *x_end; /* of this group of images */
    epilogue_tensors to;      /* likewise */
    size_t height, out_height;
    size_t tile_rows, tile_columns; /* output pixels of a tile, tile_rows * tile_columns <= DOT_TILE */
    size_t row_tiles, column_tiles; /* tiles of an image, down and across */
    size_t chunks;                  /* times DOT_TILE filters of a group */
    size_t image_words;
    uint64_t *pixels;    /* [images][image_words] */
    size_t window_words; /* of a tile */
    uint64_t *windows;   /* [pieces][window_words] */
} dot_job;

/* Stage 1: input rows [begin, end), counted over the images. */
static void prepare_rows(void *argument, size_t begin, size_t end) {
    const dot_job *job = argument;
    const size_t channels = (size_t)job->conv->params.in_channels, width = (size_t)job->conv->params.width;
    const size_t row_bytes = sign_bytes(width), plane_bytes = row_bytes * job->height;
    for (size_t row = begin; row < end; row++) {
        const uint8_t *image = job->x + row / job->height * channels * plane_bytes;
        planes_to_pixels(image + row % job->height * row_bytes, plane_bytes, job->x_end, channels, width,
                         transpose_for(job->conv->isa), job->pixels + row * width * sign_words(channels));
    }
}

/* Adds what zero padding needs (see sum_taps) to the dot products of windows that touch it. */
static void correct_padding(const dot_conv *conv, const window *windows, size_t window_count, size_t first_filter,
                            size_t filter_count, int32_t *dots) {
    const size_t rows = (size_t)conv->params.kernel_shape[0], columns = (size_t)conv->params.kernel_shape[1];
    const size_t filters = (size_t)conv->params.out_channels, pitch = columns + 1;
    const int32_t *sums = conv->tap_sums + first_filter, *total = sums + (rows * pitch + columns) * filters;
    for (size_t p = 0; p < window_count; p++) {
        const window *window = &windows[p];
        if (!window_touches_padding(&conv->params, window))
            continue;
        const size_t above = (size_t)window->first_row * pitch, below = (size_t)window->end_row * pitch;
        const int32_t *above_left = sums + (above + (size_t)window->first_column) * filters;
        const int32_t *above_right = sums + (above + (size_t)window->end_column) * filters;
        const int32_t *below_left = sums + (below + (size_t)window->first_column) * filters;
        const int32_t *below_right = sums + (below + (size_t)window->end_column) * filters;
        for (size_t f = 0; f < filter_count; f++)
            dots[f * DOT_TILE + p] += total[f] - (below_right[f] - above_right[f] - below_left[f] + above_left[f]);
    }
}

/* Stage 2: items [begin, end); an item is a chunk of a group of a tile of an image, the chunks counting fastest. */
static void convolve(void *argument, size_t piece, size_t begin, size_t end) {
    const dot_job *job = argument;
    const dot_conv *conv = job->conv;
    const size_t groups = (size_t)conv->params.group;
    uint64_t *bits = job->windows + piece * job->window_words;
    window windows[DOT_TILE];
    _Alignas(64) int32_t dots[DOT_TILE * DOT_TILE];
    for (size_t item = begin; item < end; item++) {
        const size_t chunk = item % job->chunks, group = item / job->chunks % groups;
        const size_t tile = item / job->chunks / groups % (job->row_tiles * job->column_tiles);
        const size_t image = item / job->chunks / groups / (job->row_tiles * job->column_tiles);
        const size_t row = tile / job->column_tiles * job->tile_rows;
        const size_t column = tile % job->column_tiles * job->tile_columns;
        const size_t rows = smaller(job->tile_rows, job->out_height - row);
        const size_t columns = smaller(job->tile_columns, conv->out_width - column), count = rows * columns;
        if (item == begin || (chunk == 0 && group == 0))
            windows_locate(&conv->params, (int64_t)job->height, row, rows, column, columns, windows);
        if (item == begin || chunk == 0)
            windows_gather(&conv->params, job->pixels + image * job->image_words, group, windows, count, bits);
        const size_t filter = chunk * DOT_TILE, filters = smaller(conv->group_filters - filter, DOT_TILE);
        const uint64_t *weights = conv->weights + group * conv->group_weights;
        conv->kernel->run(bits, count, dot_tile_weights(conv->kernel, weights, conv->words, filter), filters,
                          conv->words, (int32_t)conv->length, dots);
        const size_t first_filter = group * conv->group_filters + filter;
        if (conv->tap_sums)
            correct_padding(conv, windows, count, first_filter, filters, dots);
        const epilogue_tile outputs = {image, row, rows, column, columns};
        epilogue_store_tile(conv->epilogue, &job->to, &outputs, first_filter, filters, dots);
    }
}

/* Cuts the output into tiles. A tile of several rows has whole rows; a tile of part of a row begins at a byte. Large
 * kernels get smaller tiles, so that the windows of one stay within a mebibyte where eight of them do. */
static void choose_tiles(dot_job *job) {
    const size_t mebibyte_windows = (1 << 20) / sizeof(uint64_t) / job->conv->words;
    size_t most = DOT_TILE;
    while (most > 8 && most > mebibyte_windows)
        most /= 2;
    job->tile_columns = smaller(job->conv->out_width, most);
    job->tile_rows = job->tile_columns == job->conv->out_width ? smaller(most / job->tile_columns, job->out_height) : 1;
    job->row_tiles = divide_up(job->out_height, job->tile_rows);
    job->column_tiles = divide_up(job->conv->out_width, job->tile_columns);
}

bnncc_status dot_conv_run(const dot_conv *conv, const uint8_t *x, steps_inputs inputs, size_t images, size_t height,
                          size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                          bnncc_error *error) {
    const size_t group_bytes = (size_t)4 << 20, scratch_bytes = (size_t)64 << 20;
    bool overflow = false;
    dot_job job = {.conv = conv, .height = height, .out_height = out_height};
    choose_tiles(&job);
    job.chunks = divide_up(conv->group_filters, DOT_TILE);
    job.window_words = job.tile_rows * job.tile_columns * conv->words;

    const size_t channels = (size_t)conv->params.in_channels, filters = (size_t)conv->params.out_channels;
    const size_t width = (size_t)conv->params.width, groups = (size_t)conv->params.group;
    const size_t image_bytes = channels * height * sign_bytes(width),
                 out_pixels = filters * out_height * conv->out_width;
    const size_t tiles = times(job.row_tiles, job.column_tiles, &overflow);
    const size_t image_items = times(times(tiles, groups, &overflow), job.chunks, &overflow);
    job.image_words = times(times(job.height, width, &overflow), sign_words(channels), &overflow);
    times(image_items, images, &overflow);
    times(times(job.image_words, sizeof *job.pixels, &overflow), images, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");

    /* As many images at a time as keep the pixel-major copy in the cache; one at least. */
    const size_t at_once = smaller(images, group_bytes / sizeof *job.pixels / job.image_words + 1);
    const size_t taps = (size_t)(conv->params.kernel_shape[0] * conv->params.kernel_shape[1]);
    const size_t item_cost = job.tile_rows * job.tile_columns *
                             (conv->words * smaller(conv->group_filters, DOT_TILE) / conv->kernel->lanes + taps);
    const size_t most_pieces = scratch_bytes / sizeof *job.windows / job.window_words + 1;
    const size_t pieces = smaller(parallel_pieces(parallel, at_once * image_items, item_cost), most_pieces);
    job.pixels = scratch_take(at_once * job.image_words, sizeof *job.pixels);
    job.windows = scratch_take(pieces * job.window_words, sizeof *job.windows);
    bnncc_status status = BNNCC_OK;
    if (!job.pixels || !job.windows)
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a convolution");
    const size_t out_rows = filters * job.out_height, out_row_bytes = sign_bytes(conv->out_width);
    for (size_t done = 0; !status && done < images; done += at_once) {
        const size_t now = smaller(at_once, images - done);
        job.x = x + done * image_bytes;
        job.x_end = job.x + now * image_bytes;
        const float *window_sums = inputs.window_sums;
        job.to =
            (epilogue_tensors){.inputs = {inputs.residual ? inputs.residual + done * out_pixels : NULL,
                                          window_sums ? window_sums + done * (out_pixels / filters * groups) : NULL},
                               .y = y ? y + done * out_pixels : NULL,
                               .bits = bits ? bits + done * out_rows * out_row_bytes : NULL,
                               .channels = filters,
                               .groups = groups,
                               .height = out_height,
                               .width = conv->out_width};
        parallel_ranges(parallel, now * job.height, sign_words(channels) * width * 8, prepare_rows, &job);
        parallel_run(parallel, now * image_items, smaller(pieces, now * image_items), convolve, &job);
    }
    scratch_give(job.pixels);
    scratch_give(job.windows);
    return status;
}
