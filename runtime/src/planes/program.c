/* Trees to programs of the bit-plane kernel: which planes each node adds, and the constants that its counts meet. */
#include "program.h"
#include "checked.h"
#include "signs.h"

#include <stdlib.h>

enum { WORD_BYTES = 8 };

static int bit_at(const uint8_t *bits, size_t position) { return bits[position / 8] >> position % 8 & 1; }

/* The index of an input's plane among a block's: the plane of zeros comes first, then [channel][column][input row]; an
 * output row's number, times the stride, is added to it. */
static uint16_t plane_index(const planes_plan *plan, size_t input) {
    const size_t rows = (size_t)plan->params.kernel_shape[0], columns = (size_t)plan->params.kernel_shape[1];
    const size_t channel = input / (rows * columns), row = input / columns % rows, column = input % columns;
    const size_t vector =
        (1 + channel * columns + column) * plan->planned_rows + row * (size_t)plan->params.dilations[0];
    return (uint16_t)(vector * (plan->lane_bytes / WORD_BYTES));
}

/* The least number of planes that the counting loop takes at once. */
static size_t planes_at_once(const planes_plan *plan) { return 8 * plan->halves; }

/* Writes the indices of inputs where `to` is 1 and `from` (NULL: zeros) is not, filled up to what is taken at once;
 * returns how many times that is. planes: the index of every input. */
static size_t list_planes(const planes_plan *plan, const uint16_t *planes, const uint8_t *to, const uint8_t *from,
                          uint16_t *index) {
    const size_t length = plan->length, step = planes_at_once(plan);
    size_t count = 0;
    for (size_t at = 0; to && at < sign_bytes(length); at++) {
        unsigned bits = to[at] & (from ? ~(unsigned)from[at] : ~0u) & (unsigned)low_bits(length - at * 8);
        for (size_t input = at * 8; bits; input++, bits >>= 1)
            if (bits & 1)
                index[count++] = planes[input];
    }
    while (count % step)
        index[count++] = 0;
    return count / step;
}

/* ---- Constants --------------------------------------------------------------------------------------------------- */

/* A node's sums of weights over rectangles of taps: sums[i][j] is that of the taps (row < i, column < j). */
static void sum_taps(const planes_plan *plan, const uint8_t *bits, int32_t *sums) {
    const size_t rows = (size_t)plan->params.kernel_shape[0], columns = (size_t)plan->params.kernel_shape[1];
    const size_t taps = rows * columns, pitch = columns + 1;
    memset(sums, 0, (rows + 1) * pitch * sizeof *sums);
    for (size_t input = 0; input < plan->length; input++) {
        const size_t tap = input % taps;
        sums[(tap / columns + 1) * pitch + tap % columns + 1] += 2 * bit_at(bits, input) - 1;
    }
    for (size_t i = 1; i <= rows; i++)
        for (size_t j = 1; j <= columns; j++)
            sums[i * pitch + j] += sums[i * pitch + j - 1] + sums[(i - 1) * pitch + j] - sums[(i - 1) * pitch + j - 1];
}

/* The sum of a node's weights over the taps inside, for windows of a class of rows at an output column. */
static int32_t weight_sum(const planes_plan *plan, const int32_t *sums, size_t class_index, size_t out_column) {
    const bnncc_conv_params *params = &plan->params;
    const int64_t rows = params->kernel_shape[0], columns = params->kernel_shape[1], pitch = columns + 1;
    const int64_t dilation = params->dilations[1], first = (int64_t)out_column * params->strides[1] - params->pads[1];
    int64_t left = 0, right = columns;
    if (params->pad_value)
        return sums[rows * pitch + columns];
    if (first < 0)
        left = (-first + dilation - 1) / dilation;
    if (first + (columns - 1) * dilation >= params->width)
        right = first >= params->width ? 0 : (params->width - 1 - first) / dilation + 1;
    const int64_t above = (int64_t)(class_index / plan->below_count);
    const int64_t below = rows - (int64_t)(class_index % plan->below_count);
    if (left >= right || above >= below)
        return 0;
    return sums[below * pitch + right] - sums[above * pitch + right] - sums[below * pitch + left] +
           sums[above * pitch + left];
}

static int64_t floor_half(int64_t value) { return value >> 1; }

/* The constants of an output: see count.h. With p ones in the window, P of them where the node is 1, and the counters
 * holding c = P - floor(p / 2) - 1 + offset, the node's dot product over the taps inside is
 *     D = 2 (2P - p) - sum = 2 (2 (c - offset) + 1 + e) - sum,     e = 1 where p is even,
 * so D >= t exactly where 2 (c - offset) + e >= T = ceil((t + sum) / 2) - 1. For T = 2m that is c - offset - m >= 0,
 * for T = 2m + 1 the same less 1 - e: a sum of c, ~m - offset and a carry of 1, or of e, whose sign tells. */
static void place_constants(const planes_plan *plan, const uint8_t *bits, const int32_t *sums, bool flipped,
                            int64_t offset, int64_t threshold, size_t class_index, size_t segment, uint64_t *words) {
    const size_t planes = (size_t)plan->counter_planes;
    int64_t ones = 0;
    for (size_t input = 0; input < plan->length; input++)
        ones += bit_at(bits, input);
    const int64_t zeros = (int64_t)plan->length - ones;
    /* A flipped node's dot product is minus its filter's: D' >= t where not D >= 1 - t. */
    const int64_t least = flipped ? 1 - threshold : threshold;
    for (size_t k = 0; k <= planes; k++)
        words[k] = 0;
    for (size_t lane = 0; lane < 64; lane++) {
        const size_t column = segment * 64 + lane % (plan->pitch * 8);
        if (column >= plan->out_width)
            continue;
        const int64_t sum = weight_sum(plan, sums, class_index, column);
        int64_t bound = -floor_half(-(least + sum)); /* 2P - p >= bound, which lies in [-zeros, ones] */
        bound = bound < -zeros ? -zeros : bound > ones + 1 ? ones + 1 : bound;
        const int64_t m = floor_half(bound - 1);
        const uint64_t constant = (uint64_t)(~m - offset);
        const bool even = (bound - 1) % 2 == 0;
        words[0] |= (uint64_t)even << lane;
        for (size_t k = 0; k < planes; k++)
            words[1 + k] |= (constant >> k & 1) << lane;
    }
    if (!flipped) /* the sign is 1 where it is below */
        words[planes] = ~words[planes];
}

/* All that an output of a group needs beside its counters, for every class of rows. */
static void place_output(planes_conv *conv, const group_tree *tree, size_t node, int64_t offset, size_t group,
                         int32_t *tap_sums) {
    const planes_plan *plan = &conv->plan;
    const uint8_t *bits = tree->bits + node * sign_bytes(plan->length);
    const size_t classes = plan->above_count * plan->below_count, channels = (size_t)plan->params.out_channels;
    const size_t channel = group * plan->group_filters + node;
    sum_taps(plan, bits, tap_sums);
    /* The node's dot product is 2 (2 (c - offset) + e) + 2 - sum: see place_constants. A number of so many planes,
     * 2 c + e + `add`, is 2 (c - offset) + e, which may be negative, and half its range. */
    const int64_t half = INT64_C(1) << plan->counter_planes, sign = tree->flipped[node] ? -1 : 1;
    if (conv->sums) {
        conv->adds[channel] = (uint32_t)((half - 2 * offset) & (2 * half - 1));
        conv->factors[channel] = (float)(2 * sign);
    }
    for (size_t class = 0; class < classes; class++) {
        for (size_t column = 0; conv->sums && column < plan->out_width; column++)
            conv->sums[(class * channels + channel) * plan->out_width + column] =
                (float)(sign * (2 - weight_sum(plan, tap_sums, class, column) - 2 * half));
        for (size_t segment = 0; conv->constants && segment < plan->segments; segment++)
            place_constants(plan, bits, tap_sums, tree->flipped[node], offset, conv->epilogue->threshold[channel],
                            class, segment,
                            conv->constants + group * conv->group_words + class * conv->class_words +
                                segment * conv->segment_words + node * conv->programs[group].constant_words);
    }
}

/* ---- Programs ---------------------------------------------------------------------------------------------------- */

void planes_program_destroy(planes_program *program) {
    free(program->nodes);
    free(program->index);
    free(program->window);
}

typedef struct builder {
    int64_t *offsets; /* [node]: what its counters are too high by */
    uint8_t *has_child;
    uint16_t *planes; /* [input]: its index */
    uint16_t *list;   /* one node's */
    int32_t *tap_sums;
} builder;

/* How many indices all nodes have. */
static size_t count_indices(const planes_plan *plan, const group_tree *tree, builder *with) {
    const size_t filter_bytes = sign_bytes(plan->length);
    size_t total = 0;
    for (size_t node = 0; node < tree->node_count; node++) {
        const int32_t parent = tree->parents[node];
        const uint8_t *to = tree->bits + node * filter_bytes;
        const uint8_t *from = parent < 0 ? NULL : tree->bits + (size_t)parent * filter_bytes;
        if (parent >= 0)
            with->has_child[parent] = 1;
        total += list_planes(plan, with->planes, from, to, with->list);
        total += list_planes(plan, with->planes, to, from, with->list);
    }
    return total * planes_at_once(plan);
}

static void write_nodes(planes_conv *conv, const group_tree *tree, size_t group, builder *with) {
    const planes_plan *plan = &conv->plan;
    const size_t filter_bytes = sign_bytes(plan->length);
    planes_program *program = conv->programs + group;
    uint16_t *index = program->index;
    for (size_t i = 0; i < tree->node_count; i++) {
        const size_t node = (size_t)tree->order[i];
        const int32_t parent = tree->parents[node];
        const uint8_t *to = tree->bits + node * filter_bytes;
        const uint8_t *from = parent < 0 ? NULL : tree->bits + (size_t)parent * filter_bytes;
        const size_t subtract = list_planes(plan, with->planes, from, to, index);
        index += subtract * planes_at_once(plan);
        const size_t add = list_planes(plan, with->planes, to, from, index);
        index += add * planes_at_once(plan);
        const bool mixed = subtract % 2 && add;
        const size_t rest = add - mixed;
        with->offsets[node] = (parent < 0 ? 0 : with->offsets[parent]) + (int64_t)(subtract * planes_at_once(plan));
        program->nodes[i] = (planes_node){
            .from = (uint16_t)(parent < 0 ? 0 : tree->slots[parent] + 1),
            .to = (uint16_t)(tree->slots[node] + 1),
            .subtract_16 = (uint16_t)(subtract / 2),
            .mixed_16 = mixed,
            .add_16 = (uint16_t)(rest / 2),
            .tail = rest % 2                 ? 1
                    : subtract % 2 && !mixed ? 2
                                             : 0,
            .keep = with->has_child[node],
            .output = node < plan->group_filters ? (int32_t)node : -1,
        };
        if (node < plan->group_filters)
            place_output(conv, tree, node, with->offsets[node], group, with->tap_sums);
    }
}

bool planes_program_build(planes_conv *conv, const group_tree *tree, size_t group) {
    const planes_plan *plan = &conv->plan;
    const size_t rows = (size_t)plan->params.kernel_shape[0], columns = (size_t)plan->params.kernel_shape[1];
    planes_program *program = conv->programs + group;
    builder with = {
        .offsets = allocate(tree->node_count, sizeof *with.offsets),
        .has_child = allocate(tree->node_count, 1),
        .planes = allocate(plan->length, sizeof *with.planes),
        .list = allocate(plan->length + planes_at_once(plan), sizeof *with.list),
        .tap_sums = allocate((rows + 1) * (columns + 1), sizeof *with.tap_sums),
    };
    program->counter_planes = plan->counter_planes;
    program->constant_words = 1 + (size_t)plan->counter_planes;
    program->counter_sets = tree->slot_count + 1;
    program->node_count = tree->node_count;
    program->nodes = allocate(tree->node_count, sizeof *program->nodes);
    program->window_16 = divide_up(plan->length, 2 * planes_at_once(plan));
    const size_t window = program->window_16 * 2 * planes_at_once(plan);
    program->window = allocate(window, sizeof *program->window);
    bool fits = with.offsets && with.has_child && with.planes && with.list && with.tap_sums && program->nodes &&
                program->window;
    if (fits) {
        memset(with.has_child, 0, tree->node_count);
        for (size_t input = 0; input < plan->length; input++)
            with.planes[input] = plane_index(plan, input);
        for (size_t i = 0; i < window; i++)
            program->window[i] = i < plan->length ? with.planes[i] : (uint16_t)0;
        program->index = allocate(count_indices(plan, tree, &with), sizeof *program->index);
        fits = program->index != NULL;
    }
    if (fits)
        write_nodes(conv, tree, group, &with);
    free(with.offsets);
    free(with.has_child);
    free(with.planes);
    free(with.list);
    free(with.tap_sums);
    return fits;
}
