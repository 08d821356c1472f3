/* Binary convolution: prepare the windows, take dot products, hand them to the epilogue.
 *
 * A convolution may be served by the channel kernel (channels/) or, with trees over its filters, by the bit-plane
 * kernel (planes/) instead, in all runs or in those whose batch suits them; conv_kernel.c says when. What follows is
 * the dot kernel's way.
 *
 * A run works through groups of images, each in two parallel stages:
 * 1. every image row turns from planes (a bit per pixel, channel by channel) into pixel-major words;
 * 2. for every tile of up to DOT_TILE output pixels, every group and every DOT_TILE filters of it: gather the tile's
 *    windows, take the dot products, correct them for zero padding, and store what the epilogue makes of them.
 * Tiles write to bytes of their own, so their order and threads cannot matter. */
#include "checked.h"
#include "conv_kernel.h"
#include "dot/dot.h"
#include "epilogue.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"
#include "windows.h"

#include <stdio.h>
#include <stdlib.h>

/* The bit-plane kernel with lanes of one width. */
typedef struct lanes {
    planes_plan plan;
    planes_conv *planes; /* NULL where it is not to be used */
} lanes;

enum { LANE_WIDTHS = 2 }; /* that one instruction set has, at most */

/* What may serve a run: the bit-plane kernel with lanes of each width, and the others. */
enum { SERVER_CHANNELS = LANE_WIDTHS, SERVER_DOT, SERVERS };

struct bnncc_conv {
    bnncc_conv_params params;
    char name[64];
    bnncc_isa isa;
    lanes lanes[LANE_WIDTHS];
    size_t tree_work; /* planes that the trees add for one vector */
    channels_plan channels_plan;
    channels_conv *channels; /* NULL where it is not to be used */
    bool usable[SERVERS];    /* those that a run could be served by */
    bool can_serve[SERVERS]; /* those of them that were prepared */
    const dot_kernel *kernel;
    epilogue epilogue;
    size_t group_filters; /* output channels of a group */
    size_t length;        /* K, the number of products in a dot product */
    size_t words;         /* of a window or a filter */
    size_t out_width;
    size_t group_weights; /* words of a group's interleaved filters */
    uint64_t *weights;    /* [group][group_weights] */
    int32_t *tap_sums;    /* see sum_taps; NULL where no correction for padding is needed */
    bnncc_conv *all_ones; /* a filter of ones for each group, whose dots are the window sums; NULL where no step reads
                             them */
};

/* ---- Creation ---------------------------------------------------------------------------------------------------- */

static bnncc_status check_params(const bnncc_conv_params *params, bnncc_error *error) {
    if (check_size("out_channels", params->out_channels, 1, error) ||
        check_size("in_channels", params->in_channels, 1, error) || check_size("group", params->group, 1, error) ||
        check_size("width", params->width, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    for (int axis = 0; axis < 2; axis++)
        if (check_size("kernel_shape", params->kernel_shape[axis], 1, error) ||
            check_size("stride", params->strides[axis], 1, error) ||
            check_size("dilation", params->dilations[axis], 1, error) ||
            check_size("pad", params->pads[axis], 0, error) || check_size("pad", params->pads[axis + 2], 0, error))
            return BNNCC_INVALID_ARGUMENT;
    if (params->pad_value < -1 || params->pad_value > 1)
        return fail(error, BNNCC_INVALID_ARGUMENT, "pad_value is not -1, 0 or 1");
    if (params->in_channels % params->group || params->out_channels % params->group)
        return fail(error, BNNCC_INVALID_ARGUMENT, "in_channels or out_channels is not a multiple of group");
    const int64_t channels = params->in_channels / params->group;
    if (params->kernel_shape[0] * params->kernel_shape[1] > DOT_LIMIT / channels)
        return fail(error, BNNCC_INVALID_ARGUMENT, "a filter has more than 2^24 weights");
    return BNNCC_OK;
}

/* Output positions along an axis (0: height, 1: width), as ONNX Conv counts them. */
static bnncc_status out_size(const bnncc_conv_params *params, int axis, int64_t size, int64_t *out,
                             bnncc_error *error) {
    const int64_t extent = (params->kernel_shape[axis] - 1) * params->dilations[axis] + 1;
    const int64_t padded = size + params->pads[axis] + params->pads[axis + 2];
    if (extent > padded)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the kernel does not fit the padded input's %s",
                    axis == 0 ? "height" : "width");
    *out = (padded - extent) / params->strides[axis] + 1;
    return BNNCC_OK;
}

static int weight_bit(const uint8_t *filter, size_t position) { return filter[position / 8] >> position % 8 & 1; }

/* Interleaves the filters, their bits put from (channel, row, column) order into that of the windows. */
static bool place_weights(bnncc_conv *conv, const uint8_t *weight) {
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
                filter[position / 64] |= (uint64_t)weight_bit(weight, channel * taps + tap) << position % 64;
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
static bool sum_taps(bnncc_conv *conv, const uint8_t *weight) {
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
            sums[((tap / columns + 1) * pitch + tap % columns + 1) * filters] += 2 * weight_bit(weight, position) - 1;
        }
        for (size_t i = 1; i <= rows; i++)
            for (size_t j = 1; j <= columns; j++)
                sums[(i * pitch + j) * filters] += sums[(i * pitch + j - 1) * filters] +
                                                   sums[((i - 1) * pitch + j) * filters] -
                                                   sums[((i - 1) * pitch + j - 1) * filters];
    }
    return true;
}

/* differing: see channels_differing. */
static double cost(const bnncc_conv *conv, size_t server, double differing, size_t batch, size_t out_height,
                   size_t threads) {
    const double pixels = (double)batch * (double)out_height * (double)conv->out_width;
    const size_t taps = (size_t)(conv->params.kernel_shape[0] * conv->params.kernel_shape[1]);
    const bool floats = conv->epilogue.scale != NULL;
    if (server == SERVER_DOT)
        return dot_cost(conv->isa, conv->words, taps, (size_t)conv->params.out_channels, (size_t)conv->params.group,
                        pixels) /
               (double)threads;
    if (server == SERVER_CHANNELS)
        return channels_cost(&conv->channels_plan, differing, floats, batch, out_height) /
               (double)smaller(threads, batch * out_height);
    return planes_cost(&conv->lanes[server].plan, conv->tree_work, floats, batch, out_height, threads);
}

/* What serves a run best, among those with `usable` set (one at least). */
static size_t choose_server(const bnncc_conv *conv, const bool *usable, double differing, size_t batch,
                            size_t out_height, size_t threads) {
    size_t best = SERVERS;
    double least = 0;
    for (size_t i = 0; i < SERVERS; i++) {
        const double here = usable[i] ? cost(conv, i, differing, batch, out_height, threads) : 0;
        if (usable[i] && (best == SERVERS || here < least)) {
            best = i;
            least = here;
        }
    }
    return best;
}

/* Which lanes the bit-plane kernel can have for a layer. */
static void plan_lanes(bnncc_conv *conv, size_t lane_bits) {
    size_t lane_bytes[LANE_WIDTHS] = {8, 0};
    if (conv->isa == BNNCC_ISA_AVX2)
        lane_bytes[0] = 32;
    else if (conv->isa != BNNCC_ISA_PORTABLE)
        lane_bytes[0] = 64, lane_bytes[1] = 32;
    for (size_t i = 0; i < LANE_WIDTHS && lane_bytes[i]; i++)
        conv->usable[i] =
            (!lane_bits || lane_bits == 8 * lane_bytes[i]) &&
            planes_plan_create(&conv->params, conv->out_width, conv->isa, lane_bytes[i], &conv->lanes[i].plan);
}

static bool has_lanes(const bool *servers) {
    for (size_t i = 0; i < LANE_WIDTHS; i++)
        if (servers[i])
            return true;
    return false;
}

/* Finds what can serve runs as requested: nothing where the layer is too large for the kernel, or has no tree. */
static void find_usable(bnncc_conv *conv, bool has_tree, const conv_request *request) {
    const bool automatic = request->kernel == CONV_KERNEL_AUTO;
    if (has_tree && (automatic || request->kernel == CONV_KERNEL_PLANES))
        plan_lanes(conv, request->lane_bits);
    if (automatic || request->kernel == CONV_KERNEL_CHANNELS) {
        bool *channels = &conv->usable[SERVER_CHANNELS];
        *channels = channels_plan_create(&conv->params, conv->out_width, conv->isa, &conv->channels_plan);
        *channels = *channels && (!request->lane_bits || request->lane_bits == 8 * conv->channels_plan.lane_bytes);
    }
    conv->usable[SERVER_DOT] =
        automatic || request->kernel == CONV_KERNEL_DOT || (request->kernel == CONV_KERNEL_PLANES && !has_tree);
}

/* Prepares the kernels that are asked for, or are best for some batch and some input: in recorded ones of a trained
 * network 15 to 23 % of signs differ from what most in their map are, in coin flips nearly half. The height is not
 * known yet; maps are as often as not square. */
static bnncc_status create_servers(bnncc_conv *conv, const uint8_t *weight, const bnncc_filter_tree *tree,
                                   const conv_request *request, bnncc_error *error) {
    const size_t most_batch = 64, groups = (size_t)conv->params.group;
    find_usable(conv, tree != NULL, request);
    if (!has_lanes(conv->usable) && !conv->usable[SERVER_CHANNELS] && !conv->usable[SERVER_DOT]) {
        if (!request->hint)
            return fail(
                error, BNNCC_UNSUPPORTED,
                "BNNCC_KERNEL is \"%s\", but the layer is too large for that kernel, or there are no such lanes",
                getenv("BNNCC_KERNEL"));
        find_usable(conv, tree != NULL, &(conv_request){.kernel = CONV_KERNEL_AUTO});
    }
    bnncc_status status = BNNCC_OK;
    group_tree *trees = NULL;
    if (has_lanes(conv->usable)) {
        status = group_trees_create(tree, weight, groups, conv->group_filters, conv->length, &trees, error);
        if (!status)
            conv->tree_work = planes_work(&conv->lanes[conv->usable[0] ? 0 : 1].plan, trees);
    }
    /* The dot kernel serves what the others do not, whatever the height. */
    conv->can_serve[SERVER_DOT] = conv->usable[SERVER_DOT];
    for (size_t batch = 1; !status && batch <= most_batch; batch *= 2) {
        conv->can_serve[choose_server(conv, conv->usable, 0.15, batch, conv->out_width, 1)] = true;
        conv->can_serve[choose_server(conv, conv->usable, 0.5, batch, conv->out_width, 1)] = true;
    }
    for (size_t i = 0; !status && i < LANE_WIDTHS; i++)
        if (conv->can_serve[i])
            status = planes_conv_create(&conv->lanes[i].plan, trees, &conv->epilogue, &conv->lanes[i].planes, error);
    if (!status && conv->can_serve[SERVER_CHANNELS])
        status = channels_conv_create(&conv->channels_plan, weight, &conv->epilogue, &conv->channels, error);
    if (trees)
        group_trees_destroy(trees, groups);
    return status;
}

/* "dot", "planes 256", "channels 512". */
static void name_server(const bnncc_conv *conv, size_t server, char *name, size_t size) {
    if (server == SERVER_DOT)
        snprintf(name, size, "dot");
    else if (server == SERVER_CHANNELS)
        snprintf(name, size, "channels %zu", 8 * conv->channels_plan.lane_bytes);
    else
        snprintf(name, size, "planes %zu", 8 * conv->lanes[server].plan.lane_bytes);
}

/* "dot/avx2", "planes/avx2 256", or, where runs differ, "planes/avx512bw 512+256, channels 512, dot". */
static void name_kernel(bnncc_conv *conv) {
    char parts[SERVERS][16], name[sizeof conv->name] = "";
    for (size_t i = 0; i < LANE_WIDTHS; i++)
        snprintf(parts[i], sizeof parts[i], "%zu", 8 * conv->lanes[i].plan.lane_bytes);
    snprintf(parts[SERVER_CHANNELS], sizeof parts[SERVER_CHANNELS], "%zu", 8 * conv->channels_plan.lane_bytes);
    const char *kernels[SERVERS] = {"planes", "planes", "channels", "dot"}, *last = NULL;
    size_t length = 0;
    for (size_t i = 0; i < SERVERS; i++) {
        if (!conv->can_serve[i])
            continue;
        const bool again = last == kernels[i];
        const char *separator = !last ? "" : again ? "+" : ", ";
        const char *isa = last ? "" : bnncc_isa_name(conv->isa);
        length += (size_t)snprintf(name + length, sizeof name - length, "%s%s%s%s%s%s", separator,
                                   again ? "" : kernels[i], last ? "" : "/", isa, i == SERVER_DOT || again ? "" : " ",
                                   i == SERVER_DOT ? "" : parts[i]);
        last = kernels[i];
    }
    snprintf(conv->name, sizeof conv->name, "%s", name);
}

static size_t filter_length(const bnncc_conv_params *params) {
    return (size_t)(params->in_channels / params->group * params->kernel_shape[0] * params->kernel_shape[1]);
}

static bnncc_status create_all_ones(bnncc_conv *conv, bnncc_error *error);

/* As bnncc_conv_create, its arguments checked. isa: one that bnncc_isa_resolve gave. */
static bnncc_status create(const bnncc_conv_params *params, size_t out_width, const uint8_t *weight,
                           const bnncc_epilogue *epilogue, const bnncc_filter_tree *tree, const conv_request *request,
                           bnncc_isa isa, bnncc_conv **result, bnncc_error *error) {
    const size_t length = filter_length(params);
    bnncc_conv *conv = allocate(1, sizeof *conv);
    if (!conv)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution");
    *conv = (bnncc_conv){
        .params = *params,
        .isa = isa,
        .kernel = dot_kernel_for(isa),
        .group_filters = (size_t)(params->out_channels / params->group),
        .length = length,
        .words = sign_words(length),
        .out_width = out_width,
    };
    bnncc_status status = epilogue_create(&conv->epilogue, epilogue, (size_t)params->out_channels, isa, error);
    const bool padded = params->pads[0] || params->pads[1] || params->pads[2] || params->pads[3];
    if (!status)
        status = create_servers(conv, weight, tree, request, error);
    if (!status && conv->can_serve[SERVER_DOT] &&
        (!place_weights(conv, weight) || (padded && params->pad_value == 0 && !sum_taps(conv, weight))))
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution's weights");
    if (!status && conv->epilogue.steps.has_window_sum)
        status = create_all_ones(conv, error);
    if (status) {
        bnncc_conv_destroy(conv);
        return status;
    }
    name_kernel(conv);
    *result = conv;
    return BNNCC_OK;
}

/* What sums up the windows of a convolution: one filter of ones for each group, with trees that let every kernel serve
 * it, and whichever is fastest. */
static bnncc_status create_all_ones(bnncc_conv *conv, bnncc_error *error) {
    const size_t groups = (size_t)conv->params.group, weight_size = groups * sign_bytes(conv->length);
    const float one = 1, zero = 0;
    const bnncc_epilogue epilogue = {.scale = &one, .scale_count = 1, .shift = &zero, .shift_count = 1};
    uint8_t *weight = allocate(weight_size, 1), *flipped = allocate(groups, 1);
    int64_t *group_nodes = allocate(groups, sizeof *group_nodes);
    int32_t *parents = allocate(groups, sizeof *parents);
    bnncc_status status = BNNCC_OK;
    if (!weight || !flipped || !group_nodes || !parents) {
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution's sums of windows");
    } else {
        bnncc_conv_params params = conv->params;
        params.out_channels = params.group;
        memset(weight, 0xff, weight_size);
        memset(flipped, 0, groups);
        for (size_t group = 0; group < groups; group++) {
            group_nodes[group] = 1;
            parents[group] = -1;
        }
        const bnncc_filter_tree tree = {group_nodes, parents, groups, flipped};
        const conv_request request = {.kernel = CONV_KERNEL_AUTO};
        status =
            create(&params, conv->out_width, weight, &epilogue, &tree, &request, conv->isa, &conv->all_ones, error);
    }
    free(weight);
    free(flipped);
    free(group_nodes);
    free(parents);
    return status;
}

bnncc_status bnncc_conv_create(const bnncc_conv_params *params, const uint8_t *weight, size_t weight_size,
                               const bnncc_epilogue *epilogue, const bnncc_conv_hints *hints, bnncc_isa isa,
                               bnncc_conv **result, bnncc_error *error) {
    const bnncc_filter_tree *tree = hints ? hints->tree : NULL;
    int64_t out_width = 0;
    bool overflow = false;
    if (!params || !weight || !result)
        return fail(error, BNNCC_INVALID_ARGUMENT, "params, weight or conv is NULL");
    if (check_params(params, error) || out_size(params, 1, params->width, &out_width, error))
        return BNNCC_INVALID_ARGUMENT;
    const size_t length = filter_length(params);
    const size_t expected = times((size_t)params->out_channels, sign_bytes(length), &overflow);
    if (overflow || weight_size != expected)
        return fail(error, BNNCC_INVALID_ARGUMENT, "weight has %zu bytes, not out_channels * ceil(%zu / 8)",
                    weight_size, length);
    conv_request request;
    bnncc_status status = bnncc_isa_resolve(isa, &isa, error);
    if (!status)
        status = conv_kernel_requested(hints ? hints->kernel : NULL, &request, error);
    if (!status && tree)
        status = check_filter_tree(tree, (size_t)params->group, (size_t)(params->out_channels / params->group), error);
    return status ? status : create(params, (size_t)out_width, weight, epilogue, tree, &request, isa, result, error);
}

void bnncc_conv_destroy(bnncc_conv *conv) {
    if (!conv)
        return;
    for (size_t i = 0; i < LANE_WIDTHS; i++)
        planes_conv_destroy(conv->lanes[i].planes);
    channels_conv_destroy(conv->channels);
    epilogue_destroy(&conv->epilogue);
    free(conv->weights);
    free(conv->tap_sums);
    bnncc_conv_destroy(conv->all_ones);
    free(conv);
}

const char *bnncc_conv_kernel(const bnncc_conv *conv) { return conv->name; }

bnncc_status bnncc_conv_estimate(const bnncc_conv *conv, int64_t batch, int64_t height, double differing,
                                 bnncc_kernel_estimate *estimates, size_t *count, bnncc_error *error) {
    int64_t out_height = 0, out_width = 0;
    if (!estimates || !count)
        return fail(error, BNNCC_INVALID_ARGUMENT, "estimates or count is NULL");
    if (!(differing >= 0 && differing <= 0.5))
        return fail(error, BNNCC_INVALID_ARGUMENT, "differing is %g, not a share of at most a half", differing);
    const bnncc_status status = bnncc_conv_output_shape(conv, height, &out_height, &out_width, error);
    if (status || check_size("batch", batch, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    *count = 0;
    for (size_t i = 0; i < SERVERS; i++)
        if (conv->usable[i]) {
            bnncc_kernel_estimate *to = estimates + (*count)++;
            name_server(conv, i, to->kernel, sizeof to->kernel);
            to->nanoseconds = cost(conv, i, differing, (size_t)batch, (size_t)out_height, 1);
        }
    return BNNCC_OK;
}

bnncc_status bnncc_conv_output_shape(const bnncc_conv *conv, int64_t height, int64_t *out_height, int64_t *out_width,
                                     bnncc_error *error) {
    if (!conv || !out_height || !out_width)
        return fail(error, BNNCC_INVALID_ARGUMENT, "conv, out_height or out_width is NULL");
    if (check_size("height", height, 1, error) || out_size(&conv->params, 0, height, out_height, error))
        return BNNCC_INVALID_ARGUMENT;
    *out_width = (int64_t)conv->out_width;
    return BNNCC_OK;
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* Sizes of one run, and the group of images it is at. */
typedef struct conv_job {
    const bnncc_conv *conv;
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
} conv_job;

/* Stage 1: input rows [begin, end), counted over the images. */
static void prepare_rows(void *argument, size_t begin, size_t end) {
    const conv_job *job = argument;
    const size_t channels = (size_t)job->conv->params.in_channels, width = (size_t)job->conv->params.width;
    const size_t row_bytes = sign_bytes(width), plane_bytes = row_bytes * job->height;
    for (size_t row = begin; row < end; row++) {
        const uint8_t *image = job->x + row / job->height * channels * plane_bytes;
        planes_to_pixels(image + row % job->height * row_bytes, plane_bytes, job->x_end, channels, width,
                         transpose_for(job->conv->isa), job->pixels + row * width * sign_words(channels));
    }
}

/* Adds what zero padding needs (see sum_taps) to the dot products of windows that touch it. */
static void correct_padding(const bnncc_conv *conv, const window *windows, size_t window_count, size_t first_filter,
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
    const conv_job *job = argument;
    const bnncc_conv *conv = job->conv;
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
        epilogue_store_tile(&conv->epilogue, &job->to, &outputs, first_filter, filters, dots);
    }
}

/* Cuts the output into tiles. A tile of several rows has whole rows; a tile of part of a row begins at a byte. Large
 * kernels get smaller tiles, so that the windows of one stay within a mebibyte where eight of them do. */
static void choose_tiles(conv_job *job) {
    const size_t mebibyte_windows = (1 << 20) / sizeof(uint64_t) / job->conv->words;
    size_t most = DOT_TILE;
    while (most > 8 && most > mebibyte_windows)
        most /= 2;
    job->tile_columns = smaller(job->conv->out_width, most);
    job->tile_rows = job->tile_columns == job->conv->out_width ? smaller(most / job->tile_columns, job->out_height) : 1;
    job->row_tiles = divide_up(job->out_height, job->tile_rows);
    job->column_tiles = divide_up(job->conv->out_width, job->tile_columns);
}

static bnncc_status run_dot(const bnncc_conv *conv, const uint8_t *x, steps_inputs inputs, size_t images, size_t height,
                            size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                            bnncc_error *error) {
    const size_t group_bytes = (size_t)4 << 20, scratch_bytes = (size_t)64 << 20;
    bool overflow = false;
    conv_job job = {.conv = conv, .height = height, .out_height = out_height};
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

/* A run by whichever kernel serves it best. */
static bnncc_status serve(const bnncc_conv *conv, const uint8_t *x, steps_inputs inputs, size_t images, size_t height,
                          size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                          bnncc_error *error) {
    const double differing =
        conv->can_serve[SERVER_CHANNELS] ? channels_differing(&conv->params, x, images, height) : 0;
    const size_t server =
        choose_server(conv, conv->can_serve, differing, images, out_height, parallel_threads(parallel));
    if (server < LANE_WIDTHS)
        return planes_conv_run(conv->lanes[server].planes, x, inputs, images, height, out_height, y, bits, parallel,
                               error);
    if (server == SERVER_CHANNELS)
        return channels_conv_run(conv->channels, x, inputs, images, height, out_height, y, bits, parallel, error);
    return run_dot(conv, x, inputs, images, height, out_height, y, bits, parallel, error);
}

bnncc_status bnncc_conv_run(const bnncc_conv *conv, const uint8_t *x, const float *residual, int64_t batch,
                            int64_t height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                            bnncc_error *error) {
    int64_t out_height = 0, out_width = 0;
    bool overflow = false;
    bnncc_status status = bnncc_conv_output_shape(conv, height, &out_height, &out_width, error);
    if (!status)
        status = check_size("batch", batch, 0, error);
    if (!status && batch > 0)
        status = epilogue_check_tensors(&conv->epilogue, residual, y, bits, error);
    if (status || batch == 0)
        return status;
    if (!x)
        return fail(error, BNNCC_INVALID_ARGUMENT, "x is NULL");
    const size_t images = (size_t)batch, in_rows = (size_t)height, out_rows = (size_t)out_height;
    const size_t in_bytes = times(sign_bytes((size_t)conv->params.width), images, &overflow);
    const size_t out_bytes = times(times(conv->out_width, sizeof(float), &overflow), images, &overflow);
    times(times(in_bytes, (size_t)conv->params.in_channels, &overflow), in_rows, &overflow);
    times(times(out_bytes, (size_t)conv->params.out_channels, &overflow), out_rows, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");

    float *window_sums = NULL;
    if (conv->all_ones) {
        /* No more than the output, whose size does not overflow. */
        window_sums =
            scratch_take(images * (size_t)conv->params.group * out_rows * conv->out_width, sizeof *window_sums);
        status = !window_sums ? fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a convolution")
                              : serve(conv->all_ones, x, (steps_inputs){NULL, NULL}, images, in_rows, out_rows,
                                      window_sums, NULL, parallel, error);
    }
    if (!status)
        status =
            serve(conv, x, (steps_inputs){residual, window_sums}, images, in_rows, out_rows, y, bits, parallel, error);
    scratch_give(window_sums);
    return status;
}
