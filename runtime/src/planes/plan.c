/* How a layer lies in the lanes of the bit-plane kernel, and what that takes. */
#include "checked.h"
#include "counters.h"
#include "program.h"
#include "signs.h"

enum { WORD_BYTES = 8 };

/* A layer's tables may take so much; maps that are thousands of pixels wide have others to do their work. */
static const size_t table_bytes = (size_t)64 << 20;

/* Counters must hold the distance between any two values that a node's count of half the inputs can take; 0 where none
 * that count.h is compiled for do. */
static int counter_planes_for(size_t length) {
    static const int compiled[] = {FOR_COUNTER_NUMBERS(COUNTER_NUMBER)};
    for (size_t i = 0; i < sizeof compiled / sizeof *compiled; i++)
        if (length / 2 + 3 <= (size_t)1 << (compiled[i] - 1))
            return compiled[i];
    return 0;
}

/* Rows of a band that take one thread the least time: as few vectors as hold all bands of one map, and of those the
 * tallest bands (which share the most). */
static size_t band_rows(const planes_plan *plan, size_t out_height) {
    const size_t slots = plan->lane_bytes / plan->pitch;
    bool overflow = false;
    const size_t rows = divide_up(times(out_height, plan->segments, &overflow), slots);
    return overflow ? out_height : smaller(rows, out_height);
}

static size_t input_rows_for(const planes_plan *plan, size_t rows, bool *overflow) {
    const size_t between = times(rows - 1, (size_t)plan->params.strides[0], overflow);
    const size_t taps = times((size_t)plan->params.kernel_shape[0] - 1, (size_t)plan->params.dilations[0], overflow);
    return plus(plus(between, taps, overflow), 1, overflow);
}

/* Vectors from one column's planes to the next: an odd number, so that what one vector of output rows takes from them
 * is spread over all of a cache's sets. */
static size_t planned_rows_for(const planes_plan *plan, size_t rows, bool *overflow) {
    return input_rows_for(plan, rows, overflow) | 1;
}

/* Whether 16-bit indices reach all planes with bands of so many rows. */
static bool indices_reach(const planes_plan *plan, size_t rows) {
    bool overflow = false;
    const size_t channels = times(plan->group_channels, (size_t)plan->params.kernel_shape[1], &overflow);
    const size_t vectors = times(plus(channels, 1, &overflow), planned_rows_for(plan, rows, &overflow), &overflow);
    return times(vectors, plan->lane_bytes / WORD_BYTES, &overflow) <= UINT16_MAX && !overflow;
}

bool planes_plan_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, size_t lane_bytes,
                        planes_plan *plan) {
    const size_t kernel_rows = (size_t)params->kernel_shape[0], dilation = (size_t)params->dilations[0];
    const size_t taps = kernel_rows * (size_t)params->kernel_shape[1];
    const size_t group_channels = (size_t)(params->in_channels / params->group);
    const bool zeros = params->pad_value == 0; /* else taps in the padding count as all others do */
    *plan = (planes_plan){
        .params = *params,
        .isa = isa,
        .lane_bytes = lane_bytes,
        .halves = lane_bytes == 32 && isa >= BNNCC_ISA_AVX512BW ? 2 : 1,
        .out_width = out_width,
        .pitch = out_width > 32   ? 8
                 : out_width > 16 ? 4
                 : out_width > 8  ? 2
                                  : 1,
        .segments = divide_up(out_width, 64),
        .group_filters = (size_t)(params->out_channels / params->group),
        .group_channels = group_channels,
        .length = group_channels * taps,
        .counter_planes = counter_planes_for(group_channels * taps),
        .above_count = 1 + (zeros ? smaller(divide_up((size_t)params->pads[0], dilation), kernel_rows) : 0),
        .below_count = 1 + (zeros ? smaller(divide_up((size_t)params->pads[2], dilation), kernel_rows) : 0),
    };
    plan->narrow = plan->segments == 1 && params->width <= (int64_t)(8 * plan->pitch) && params->strides[1] == 1;
    /* The height is not known yet; maps are as often as not square. */
    plan->most_rows = band_rows(plan, out_width);
    plan->most_rows = smaller(plan->most_rows, UINT16_MAX);
    while (plan->most_rows > 1 && !indices_reach(plan, plan->most_rows))
        plan->most_rows--;
    if (!plan->counter_planes || !indices_reach(plan, plan->most_rows))
        return false;
    bool overflow = false;
    plan->planned_rows = planned_rows_for(plan, plan->most_rows, &overflow);
    const size_t rows =
        times(times(plan->above_count, plan->below_count, &overflow), (size_t)params->out_channels, &overflow);
    const size_t constants = times(plan->segments, ((size_t)plan->counter_planes + 1) * sizeof(uint64_t), &overflow);
    const size_t row_bytes = plus(constants, times(out_width, sizeof(int32_t), &overflow), &overflow);
    return times(rows, row_bytes, &overflow) <= table_bytes && !overflow;
}

size_t planes_work(const planes_plan *plan, const group_tree *trees) {
    const size_t bytes = sign_bytes(plan->length), at_once = 8 * plan->halves;
    size_t planes = 0;
    for (size_t group = 0; group < (size_t)plan->params.group; group++) {
        const group_tree *tree = trees + group;
        planes += plan->length; /* the window's */
        for (size_t node = 0; node < tree->node_count; node++) {
            const uint8_t *to = tree->bits + node * bytes;
            const uint8_t *from = tree->parents[node] < 0 ? NULL : tree->bits + (size_t)tree->parents[node] * bytes;
            size_t add = 0, subtract = 0;
            for (size_t at = 0; at < bytes; at += 8) {
                const uint64_t used = low_bits(plan->length - at * 8);
                const uint64_t mine = load_word(to + at, smaller(bytes - at, 8)) & used;
                const uint64_t above = from ? load_word(from + at, smaller(bytes - at, 8)) & used : 0;
                add += popcount(mine & ~above);
                subtract += popcount(above & ~mine);
            }
            planes += at_once * (divide_up(add, at_once) + divide_up(subtract, at_once));
        }
    }
    return planes;
}

bool planes_split_run(const planes_plan *plan, size_t work, size_t batch, size_t out_height, size_t threads,
                      planes_split *split) {
    const size_t prepare = 6; /* of a plane, in planes counted */
    const size_t groups = (size_t)plan->params.group, slots = plan->lane_bytes / plan->pitch;
    const size_t columns = plan->group_channels * (size_t)plan->params.kernel_shape[1];
    bool overflow = false;
    const size_t maps = times(batch, plan->segments, &overflow);
    size_t least = 0;
    for (size_t rows = smaller(band_rows(plan, out_height), plan->most_rows); rows > 0 && !overflow; rows--) {
        planes_split here = {.rows = rows, .input_rows = input_rows_for(plan, rows, &overflow)};
        here.bands = divide_up(out_height, rows);
        here.sheets = divide_up(times(maps, here.bands, &overflow), slots);
        here.rounds = divide_up(times(here.sheets, groups, &overflow), threads);
        const size_t item = plus(times(rows, work / groups, &overflow),
                                 times(here.input_rows, columns * prepare, &overflow), &overflow);
        const size_t time = times(here.rounds, item, &overflow);
        if (!least || time < least) {
            least = time;
            *split = here;
        }
        if (threads == 1) /* lower bands would only share less */
            break;
    }
    return !overflow;
}
