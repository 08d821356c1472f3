/* Binary convolution: one of three kernels serves a run, the dot kernel (dot/), the channel kernel (channels/) or, with
 * trees over the filters, the bit-plane kernel (planes/); conv_kernel.c says when. */
#include "dot/conv.h"
#include "checked.h"
#include "conv_kernel.h"
#include "epilogue.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"

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
    dot_conv *dot;           /* likewise */
    epilogue epilogue;
    size_t group_filters; /* output channels of a group */
    size_t length;        /* K, the number of products in a dot product */
    size_t out_width;
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

/* differing: see channels_differing. */
static double cost(const bnncc_conv *conv, size_t server, double differing, size_t batch, size_t out_height,
                   size_t threads) {
    const double pixels = (double)batch * (double)out_height * (double)conv->out_width;
    const size_t taps = (size_t)(conv->params.kernel_shape[0] * conv->params.kernel_shape[1]);
    const bool floats = conv->epilogue.scale != NULL;
    if (server == SERVER_DOT)
        return dot_cost(conv->isa, sign_words(conv->length), taps, (size_t)conv->params.out_channels,
                        (size_t)conv->params.group, pixels) /
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
    if (!status && conv->can_serve[SERVER_DOT])
        status = dot_conv_create(&conv->params, conv->out_width, conv->isa, weight, &conv->epilogue, &conv->dot, error);
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
        .group_filters = (size_t)(params->out_channels / params->group),
        .length = length,
        .out_width = out_width,
    };
    bnncc_status status = epilogue_create(&conv->epilogue, epilogue, (size_t)params->out_channels, isa, error);
    if (!status)
        status = create_servers(conv, weight, tree, request, error);
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
    dot_conv_destroy(conv->dot);
    epilogue_destroy(&conv->epilogue);
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
    return dot_conv_run(conv->dot, x, inputs, images, height, out_height, y, bits, parallel, error);
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
