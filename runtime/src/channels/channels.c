/* The channel kernel's convolution: its planes of weights, and the bounds that thresholds set. */
#include "channels.h"
#include "checked.h"
#include "cpu.h"
#include "planes/counters.h"
#include "signs.h"
#include "steps.h"
#include "windows.h"

#include <stdlib.h>
#include <string.h>

const channels_steps *channels_steps_for(bnncc_isa isa, size_t filters) {
#if defined(__x86_64__)
    if (isa == BNNCC_ISA_AVX512VPOPCNTDQ && cpu_has_avx512vbmi2() && cpu_has_gfni())
        return filters > 256 ? &channels_avx512_bytes : &channels_avx512vl_bytes;
    if (isa == BNNCC_ISA_AVX512BW || isa == BNNCC_ISA_AVX512VPOPCNTDQ)
        return filters > 256 ? &channels_avx512 : &channels_avx512vl;
    if (isa == BNNCC_ISA_AVX2)
        return &channels_avx2;
#endif
    (void)isa;
    (void)filters;
    return &channels_portable;
}

/* Planes that hold a count up to `length`; 0 where none that count.h is compiled for do. */
static int counters_for(size_t length) {
    static const int compiled[] = {FOR_COUNTER_NUMBERS(COUNTER_NUMBER)};
    for (size_t i = 0; i < sizeof compiled / sizeof *compiled; i++)
        if (length < (size_t)1 << compiled[i])
            return compiled[i];
    return 0;
}

static size_t bound_rows(const channels_plan *plan) { return plan->params.pad_value == 0 ? plan->taps + 1 : 1; }

/* The taps of an output column's windows that count. */
static channels_column column_taps(const bnncc_conv_params *params, size_t x) {
    channels_column here = {0, params->kernel_shape[1]};
    if (params->pad_value == 0)
        taps_inside((int64_t)x * params->strides[1] - params->pads[1], params->dilations[1], params->kernel_shape[1],
                    params->width, &here.begin, &here.end);
    return here;
}

bool channels_plan_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, channels_plan *plan) {
    const size_t most_bytes = (size_t)256 << 20, most_list_bytes = (size_t)64 << 20;
    const size_t chunk_bytes = (size_t)64 << 10, most_tap_bytes = (UINT16_MAX + (size_t)1) * 8;
    const size_t groups = (size_t)params->group, filters = (size_t)params->out_channels / groups;
    const size_t taps = (size_t)(params->kernel_shape[0] * params->kernel_shape[1]);
    const size_t channels = (size_t)params->in_channels / groups;
    bool overflow = false;
    *plan = (channels_plan){
        .params = *params,
        .isa = isa,
        .lane_bytes = channels_steps_for(isa, filters)->lane_bytes,
        .out_width = out_width,
        .group_filters = filters,
        .group_channels = channels,
        .taps = taps,
        .length = channels * taps,
        .counters = counters_for(channels * taps),
    };
    if (!plan->counters)
        return false;
    plan->blocks = divide_up(filters, 8 * plan->lane_bytes);
    plan->tap_bytes = (1 + 2 * channels) * plan->lane_bytes;
    plan->block_bytes = taps * plan->tap_bytes;
    const size_t group_bytes = times(plan->blocks, plan->block_bytes, &overflow);
    const size_t bound_bytes = times(times(bound_rows(plan), plan->blocks, &overflow),
                                     (1 + (size_t)plan->counters) * plan->lane_bytes, &overflow);
    const size_t column_bytes = times(out_width, sizeof(uint32_t) + sizeof(channels_column), &overflow);
    const size_t bytes =
        plus(times(plus(group_bytes, bound_bytes, &overflow), groups, &overflow), column_bytes, &overflow);
    /* The lists of the inputs that one output row needs. */
    const size_t rows =
        plus(times((size_t)params->kernel_shape[0] - 1, (size_t)params->dilations[0], &overflow), 1, &overflow);
    plan->lists_of_row =
        plus(times((out_width - 1) / 2 * 2, (size_t)params->strides[1], &overflow),
             times((size_t)params->kernel_shape[1] - 1, (size_t)params->dilations[1], &overflow) + 1, &overflow);
    const size_t row_bytes = times(plan->lists_of_row, channels_list_bytes(channels), &overflow);
    const size_t list_bytes = times(rows, row_bytes, &overflow);
    if (overflow || bytes > most_bytes || list_bytes > most_list_bytes || plan->tap_bytes > most_tap_bytes)
        return false;
    int64_t sum = 0;
    for (size_t x = 0; x < out_width; x++) {
        const channels_column here = column_taps(params, x);
        sum += here.end - here.begin;
    }
    /* What stays in the cache; and planes have numbers of 16 bits, in eighths. */
    plan->chunk_taps = smaller(chunk_bytes / (channels * plan->lane_bytes) + 1, most_tap_bytes / plan->tap_bytes);
    plan->chunk_taps = smaller(plan->chunk_taps, taps);
    plan->inside = (double)sum / (double)out_width / (double)params->kernel_shape[1];
    plan->inside *= plan->inside;
    return true;
}

double channels_differing(const bnncc_conv_params *params, const uint8_t *x, size_t batch, size_t height) {
    const size_t most_maps = 32, most_bytes = 256;
    const size_t row_bytes = sign_bytes((size_t)params->width), map_bytes = height * row_bytes;
    const size_t maps = batch * (size_t)params->in_channels, step = divide_up(maps, most_maps);
    const size_t bytes = smaller(map_bytes, most_bytes);
    const double pixels = (double)bytes / (double)row_bytes * (double)params->width;
    double differing = 0;
    for (size_t map = 0; map < maps; map += step) {
        unsigned ones = 0; /* unused bits are taken for zeros */
        for (size_t i = 0; i < bytes; i += 8)
            ones += popcount(load_word(x + map * map_bytes + i, smaller(bytes - i, 8)));
        const double share = ones < pixels ? ones / pixels : 1;
        differing += share < 0.5 ? share : 1 - share;
    }
    return differing / (double)divide_up(maps, step);
}

/* The planes of one group from its filters. */
static void place_weights(const channels_plan *plan, const uint8_t *weight, uint8_t *planes) {
    const size_t lanes = 8 * plan->lane_bytes, filter_bytes = sign_bytes(plan->length);
    const size_t complements = plan->group_channels * plan->lane_bytes;
    memset(planes, 0, plan->blocks * plan->block_bytes);
    for (size_t filter = 0; filter < plan->group_filters; filter++, weight += filter_bytes) {
        const size_t lane = filter % lanes;
        uint8_t *block = planes + filter / lanes * plan->block_bytes + lane / 8;
        for (size_t position = 0; position < plan->length; position++) {
            const size_t channel = position / plan->taps, tap = position % plan->taps;
            uint8_t *byte = block + tap * plan->tap_bytes + (1 + channel) * plan->lane_bytes;
            if (!sign_bit(weight, position))
                byte += complements;
            *byte |= (uint8_t)(1u << lane % 8);
        }
    }
}

/* The bounds of one group: see channels_conv. What no sum reaches, or all do, stays so when clamped. */
static void place_bounds(const channels_conv *conv, const int32_t *threshold, uint8_t *bounds) {
    const channels_plan *plan = &conv->plan;
    const size_t lanes = 8 * plan->lane_bytes, planes = 1 + (size_t)plan->counters;
    memset(bounds, 0, conv->bound_rows * plan->blocks * planes * plan->lane_bytes);
    for (size_t row = 0; row < conv->bound_rows; row++) {
        const int64_t inside = (int64_t)(plan->group_channels * (conv->bound_rows == 1 ? plan->taps : row));
        for (size_t filter = 0; filter < plan->group_filters; filter++) {
            const int64_t twice = threshold[filter] + inside;
            int64_t bound = twice / 2 + (twice % 2 > 0); /* rounded up */
            bound = bound < 0 ? 0 : bound > inside + 1 ? inside + 1 : bound;
            uint8_t *to = bounds + (row * plan->blocks + filter / lanes) * planes * plan->lane_bytes;
            for (size_t k = 0; k < planes; k++, to += plan->lane_bytes)
                to[filter % lanes / 8] |= (uint8_t)((bound >> k & 1) << filter % 8);
        }
    }
}

/* Windows slide from left to right, so a class is a run of columns. */
static void find_columns(channels_conv *conv) {
    const bnncc_conv_params *params = &conv->plan.params;
    for (size_t x = 0; x < conv->plan.out_width; x++) {
        const channels_column here = column_taps(params, x), *last = conv->columns + conv->column_classes - 1;
        if (conv->column_classes == 0 || last->begin != here.begin || last->end != here.end)
            conv->columns[conv->column_classes++] = here;
        conv->column_class[x] = (uint32_t)(conv->column_classes - 1);
    }
}

bnncc_status channels_conv_create(const channels_plan *plan, const uint8_t *weight, const epilogue *epilogue,
                                  channels_conv **result, bnncc_error *error) {
    const size_t groups = (size_t)plan->params.group, planes = 1 + (size_t)plan->counters;
    channels_conv *conv = allocate(1, sizeof *conv);
    if (!conv)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution");
    *conv = (channels_conv){
        .plan = *plan,
        .steps = channels_steps_for(plan->isa, plan->group_filters),
        .epilogue = epilogue,
        .bound_rows = bound_rows(plan),
    };
    const bool bits_only = !epilogue->scale;
    const size_t bound_bytes = conv->bound_rows * plan->blocks * planes * plan->lane_bytes;
    conv->weights = allocate(groups * plan->blocks, plan->block_bytes);
    conv->bounds = bits_only ? allocate(groups, bound_bytes) : NULL;
    conv->column_class = allocate(plan->out_width, sizeof *conv->column_class);
    conv->columns = allocate(plan->out_width, sizeof *conv->columns);
    conv->tap_places = allocate(plan->taps, sizeof *conv->tap_places);
    if (!conv->weights || (bits_only && !conv->bounds) || !conv->tap_places || !conv->column_class || !conv->columns) {
        channels_conv_destroy(conv);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution's weights");
    }
    find_columns(conv);
    for (int64_t tap = 0; tap < (int64_t)plan->taps; tap++)
        conv->tap_places[tap] = (channels_tap){tap / plan->params.kernel_shape[1], tap % plan->params.kernel_shape[1]};
    for (size_t group = 0; group < groups; group++) {
        const size_t first = group * plan->group_filters;
        place_weights(plan, weight + first * sign_bytes(plan->length),
                      conv->weights + group * plan->blocks * plan->block_bytes);
        if (bits_only)
            place_bounds(conv, epilogue->threshold + first, conv->bounds + group * bound_bytes);
    }
    *result = conv;
    return BNNCC_OK;
}

void channels_conv_destroy(channels_conv *conv) {
    if (!conv)
        return;
    free(conv->weights);
    free(conv->bounds);
    free(conv->tap_places);
    free(conv->column_class);
    free(conv->columns);
    free(conv);
}
