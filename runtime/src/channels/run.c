/* A run of the channel kernel: bands of output rows, each by itself, on the caller's threads.
 *
 * A band of one group of one image takes five steps: its inputs become pixel-major words; the reference is found; every
 * two input pixels that windows of a pair see through the same tap get a list of the channels where they differ from
 * it; every tap's planes that are opposite to the reference are counted; and every pair of output pixels counts the
 * planes on the lists of its taps. Bits are then put back into rows. Bands write to bytes of their own, so their order
 * and threads cannot matter. */
#include "channels.h"
#include "checked.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"
#include "steps.h"
#include "windows.h"

/* Sizes of a run. */
typedef struct channels_job {
    const channels_conv *conv;
    const uint8_t *x, *x_end;
    steps_inputs inputs;
    float *y;
    uint8_t *bits;
    size_t height, out_height;
    size_t band_rows, bands;        /* of an image */
    size_t tile_rows, tile_columns; /* output pixels that are expanded to floats at a time, DOT_TILE at most */
    size_t words;                   /* of an input pixel's channels in a group */
    size_t row_pitch;               /* positions of an input row; those beyond the width are not used */
    size_t list_bytes;
    size_t lists_of_row;  /* of an input row: the pairs of pixels that begin at so many columns, the first in padding */
    size_t vectors_bytes; /* of one count: 1 + counters planes */
    bool keeps_counts;    /* from one chunk of taps to the next, or for floats */
    /* Where a piece's parts are in its memory. */
    size_t pixels, lists, tap_lists, tap_places, tap_steps, joined, offsets, tap_sums, starts, signs, counts, numbers,
        add, inside;
    size_t part_numbers; /* room in a part of a joined list */
    size_t piece_bytes;
    uint8_t *pieces;
} channels_job;

/* What a band is worked at with. */
typedef struct channels_band {
    const channels_job *job;
    size_t image, group, row, rows;
    size_t first_input, input_rows;  /* inside the image */
    uint64_t *pixels;                /* [position][words] */
    uint64_t *reference;             /* [words], after the pixels */
    uint64_t *outside;               /* [words], after that: a pixel in the padding */
    uint16_t *offsets;               /* [channels]: of the plane opposite to the reference, within a tap, in eighths */
    uint8_t *lists;                  /* [1 + input row * lists_of_row]; the first one is that of rows in the padding */
    const channels_list **tap_lists; /* [chunk_taps], of the pair at hand */
    size_t *tap_places, *tap_steps; /* [chunk_taps]: where those are, in bytes; how far on those of the next pair are */
    uint16_t *joined;               /* [LIST_PARTS][part_numbers] */
    uint8_t *tap_sums;              /* [block][tap] counts */
    uint8_t *starts;                /* [column class] counts */
    uint8_t *signs;                 /* [block][output position] vectors; rows of whole bytes of positions */
    /* Of every output pixel of the band: */
    uint8_t *counts;       /* of the block at hand */
    uint16_t *numbers;     /* of DOT_TILE of its pixels, see channels_numbers_function */
    int32_t *add, *inside; /* see channels_expansion */
} channels_band;

/* ---- Preparation ------------------------------------------------------------------------------------------------- */

static channels_list *list_at(const channels_band *band, size_t number) {
    return (channels_list *)(void *)(band->lists + number * band->job->list_bytes);
}

static void make_list(const channels_band *band, const uint64_t *first, const uint64_t *second, size_t number) {
    const channels_job *job = band->job;
    job->conv->steps->list(first, second, band->reference, band->offsets, job->conv->plan.group_channels,
                           list_at(band, number));
}

static void make_lists(const channels_band *band) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    const bnncc_conv_params *params = &plan->params;
    for (size_t channel = 0; channel < plan->group_channels; channel++) {
        const size_t positive = band->reference[channel / 64] >> channel % 64 & 1;
        band->offsets[channel] = (uint16_t)((1 + channel + positive * plan->group_channels) * plan->lane_bytes / 8);
    }
    memset(band->offsets + plan->group_channels, 0, LIST_STEP * sizeof *band->offsets);
    /* Zeros count nothing, as what the reference has. */
    for (size_t word = 0; word < job->words; word++)
        band->outside[word] = params->pad_value == 0  ? band->reference[word]
                              : params->pad_value > 0 ? low_bits(plan->group_channels - 64 * word)
                                                      : 0;
    make_list(band, band->outside, band->outside, 0);
    size_t number = 1;
    for (size_t row = 0; row < band->input_rows; row++)
        for (size_t i = 0; i < job->lists_of_row; i++) {
            const int64_t column = (int64_t)i - params->pads[1], next = column + params->strides[1];
            const uint64_t *pixels = band->pixels + row * job->row_pitch * job->words;
            const uint64_t *first = band->outside, *second = band->outside;
            if (column >= 0 && column < params->width)
                first = pixels + (size_t)column * job->words;
            if (next >= 0 && next < params->width)
                second = pixels + (size_t)next * job->words;
            make_list(band, first, second, number++);
        }
}

/* Counts, of every tap, the inputs where filters are opposite to the reference. */
static void sum_taps(const channels_band *band) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const size_t lane_bytes = plan->lane_bytes;
    uint8_t *zeros = band->starts;
    memset(zeros, 0, job->vectors_bytes);
    for (size_t block = 0; block < plan->blocks; block++)
        for (size_t tap = 0; tap < plan->taps; tap++) {
            uint8_t *to = band->tap_sums + (block * plan->taps + tap) * job->vectors_bytes;
            const channels_pair all = {
                .weights =
                    conv->weights + (band->group * plan->blocks + block) * plan->block_bytes + tap * plan->tap_bytes,
                .lists = {band->offsets, band->offsets, band->offsets},
                .units = {divide_up(plan->group_channels, 16), 0, 0},
                .counters = plan->counters,
                .start = {zeros},
                .to = {to - lane_bytes}, /* twice the count, less its lowest plane */
            };
            conv->steps->count(&all);
            memset(to + (size_t)plan->counters * lane_bytes, 0, lane_bytes);
        }
}

/* Where one block's counts of windows with the rows [first, end) of taps inside start, for every class of columns: at
 * the complement of the bound plus the inputs opposite to the reference. */
static void find_starts(const channels_band *band, size_t block, int64_t first, int64_t end) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const size_t planes = 1 + (size_t)plan->counters, columns = (size_t)plan->params.kernel_shape[1];
    const size_t word_count = job->vectors_bytes / sizeof(uint64_t);
    const uint8_t *sums = band->tap_sums + block * plan->taps * job->vectors_bytes;
    for (size_t class = 0; class < conv->column_classes; class++) {
        const channels_column *inside = conv->columns + class;
        const size_t taps = (size_t)((end - first) * (inside->end - inside->begin));
        const size_t bound = conv->bound_rows == 1 ? 0 : taps;
        uint8_t *to = band->starts + class * job->vectors_bytes;
        if (conv->bounds)
            memcpy(to,
                   conv->bounds +
                       ((band->group * conv->bound_rows + bound) * plan->blocks + block) * job->vectors_bytes,
                   job->vectors_bytes);
        else
            memset(to, 0, job->vectors_bytes);
        for (size_t row = (size_t)first; row < (size_t)end; row++)
            for (size_t column = (size_t)inside->begin; column < (size_t)inside->end; column++)
                conv->steps->add(sums + (row * columns + column) * job->vectors_bytes, planes, to);
        uint64_t *words = (uint64_t *)(void *)to;
        for (size_t i = 0; i < word_count; i++)
            words[i] = ~words[i];
    }
}

static void prepare(channels_band *band) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    const bnncc_conv_params *params = &plan->params;
    const int64_t top = (int64_t)band->row * params->strides[0] - params->pads[0];
    const int64_t bottom =
        top + (int64_t)(band->rows - 1) * params->strides[0] + (params->kernel_shape[0] - 1) * params->dilations[0] + 1;
    const int64_t first = top < 0 ? 0 : top, end = bottom < (int64_t)job->height ? bottom : (int64_t)job->height;
    band->first_input = (size_t)first;
    band->input_rows = first < end ? (size_t)(end - first) : 0;
    /* The rows of a channel are one run of bytes, and so are the bits that end them. */
    const size_t row_bytes = job->row_pitch / 8, plane_bytes = job->height * row_bytes;
    const size_t channel = band->image * (size_t)params->in_channels + band->group * plan->group_channels;
    band->reference = band->pixels + band->input_rows * job->row_pitch * job->words;
    band->outside = band->reference + job->words;
    if (band->input_rows)
        planes_to_pixels(job->x + channel * plane_bytes + band->first_input * row_bytes, plane_bytes, job->x_end,
                         plan->group_channels, band->input_rows * job->row_pitch, transpose_for(plan->isa),
                         band->pixels);
    const channels_pixels map = {band->pixels, band->input_rows, (size_t)params->width, job->row_pitch, job->words};
    job->conv->steps->majority(&map, band->reference);
    make_lists(band);
    sum_taps(band);
}

/* ---- Counting ---------------------------------------------------------------------------------------------------- */

/* The rows of taps that count in the windows of an output row, and the input row of the first row of taps. */
typedef struct row_taps {
    int64_t begin, end;
    int64_t input_row; /* counted from the band's first; those outside it are in the padding */
} row_taps;

static row_taps taps_of_row(const channels_band *band, size_t row) {
    const bnncc_conv_params *params = &band->job->conv->plan.params;
    const int64_t top = (int64_t)(band->row + row) * params->strides[0] - params->pads[0];
    row_taps taps = {0, params->kernel_shape[0], top - (int64_t)band->first_input};
    if (params->pad_value == 0)
        taps_inside(top, params->dilations[0], params->kernel_shape[0], (int64_t)band->job->height, &taps.begin,
                    &taps.end);
    return taps;
}

/* Where the lists of the taps [begin, end) of a row's first pair are. */
static void find_tap_lists(const channels_band *band, const row_taps *row, size_t begin, size_t end) {
    const channels_job *job = band->job;
    const bnncc_conv_params *params = &job->conv->plan.params;
    for (size_t tap = begin; tap < end; tap++) {
        const int64_t y = row->input_row + job->conv->tap_places[tap].row * params->dilations[0];
        const size_t column = (size_t)(job->conv->tap_places[tap].column * params->dilations[1]);
        const bool inside = y >= 0 && y < (int64_t)band->input_rows;
        band->tap_places[tap - begin] = inside ? (1 + (size_t)y * job->lists_of_row + column) * job->list_bytes : 0;
        band->tap_steps[tap - begin] = inside ? 2 * (size_t)params->strides[1] * job->list_bytes : 0;
    }
}

/* Zeros from the end of a list of `size` numbers to that of the unit that another size ends in. */
static void fill_units(uint16_t *list, size_t size, size_t longer) {
    for (size_t at = size; at < longer + 16; at += 16)
        memset(list + at, 0, 16 * sizeof *list);
}

/* Joins the lists of a pair's taps, goes on to those of the next pair, and returns in pair->add what a window counts
 * less. */
static void join_taps(const channels_band *band, size_t taps, channels_pair *pair) {
    const channels_job *job = band->job;
    uint16_t *lists[LIST_PARTS], *ends[LIST_PARTS];
    size_t sizes[LIST_PARTS];
    for (size_t part = 0; part < LIST_PARTS; part++)
        lists[part] = ends[part] = band->joined + part * job->part_numbers;
    for (size_t tap = 0; tap < taps; tap++) {
        band->tap_lists[tap] = (const channels_list *)(const void *)(band->lists + band->tap_places[tap]);
        band->tap_places[tap] += band->tap_steps[tap];
    }
    job->conv->steps->join(band->tap_lists, taps, job->conv->plan.tap_bytes / 8, ends);
    if (!pair->start[1])
        ends[LIST_SECOND] = lists[LIST_SECOND];
    for (size_t part = 0; part < LIST_PARTS; part++) {
        sizes[part] = (size_t)(ends[part] - lists[part]);
        pair->lists[part] = lists[part];
        pair->units[part] = divide_up(sizes[part], 16);
    }
    const size_t more = sizes[sizes[LIST_FIRST] > sizes[LIST_SECOND] ? LIST_FIRST : LIST_SECOND];
    fill_units(lists[LIST_BOTH], sizes[LIST_BOTH], sizes[LIST_BOTH]);
    fill_units(lists[LIST_FIRST], sizes[LIST_FIRST], more);
    fill_units(lists[LIST_SECOND], sizes[LIST_SECOND], more);
    for (size_t window = 0; window < 2; window++)
        pair->add[window] = -(int32_t)(sizes[LIST_BOTH] + sizes[LIST_FIRST + window]);
}

/* What one pair of a row counts of a chunk of taps, [begin, end): the first one starts anew, the last one tells. */
static void count_taps(const channels_band *band, size_t block, const row_taps *taps, size_t row, size_t column,
                       size_t begin, size_t end) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const size_t out_pitch = 8 * sign_bytes(plan->out_width), positions = job->band_rows * out_pitch;
    const bool first = begin == 0, last = end == plan->taps;
    channels_pair pair = {
        .weights = conv->weights + (band->group * plan->blocks + block) * plan->block_bytes + begin * plan->tap_bytes,
        .counters = plan->counters,
    };
    const size_t pixel = row * plan->out_width + column, windows = smaller(2, plan->out_width - column);
    for (size_t window = 0; window < windows; window++) {
        const size_t p = pixel + window;
        uint8_t *count = job->keeps_counts ? band->counts + p * job->vectors_bytes : NULL;
        pair.start[window] = count;
        if (first) {
            const uint32_t class = conv->column_class[column + window];
            const int64_t columns = conv->columns[class].end - conv->columns[class].begin;
            band->inside[p] = (int32_t)((taps->end - taps->begin) * columns * (int64_t)plan->group_channels);
            band->add[p] = band->inside[p] + 1;
            pair.start[window] = band->starts + class * job->vectors_bytes;
        }
        if (last && !job->y)
            pair.signs[window] =
                band->signs + (block * positions + row * out_pitch + column + window) * plan->lane_bytes;
        else
            pair.to[window] = count;
    }
    join_taps(band, end - begin, &pair);
    for (size_t window = 0; window < windows; window++) {
        band->add[pixel + window] += pair.add[window];
        pair.add[window] = band->add[pixel + window];
    }
    conv->steps->count(&pair);
}

/* One block's counts of the band's windows: the planes of a chunk of taps, which stay in the cache, meet all windows.
 */
static void count_block(const channels_band *band, size_t block) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    int64_t begin_row = -1, end_row = -1;
    for (size_t tap = 0, end; tap < plan->taps; tap = end) {
        end = smaller(tap + plan->chunk_taps, plan->taps);
        for (size_t row = 0; row < band->rows; row++) {
            const row_taps taps = taps_of_row(band, row);
            if (tap == 0 && (taps.begin != begin_row || taps.end != end_row))
                find_starts(band, block, taps.begin, taps.end);
            begin_row = taps.begin;
            end_row = taps.end;
            find_tap_lists(band, &taps, tap, end);
            for (size_t column = 0; column < plan->out_width; column += 2)
                count_taps(band, block, &taps, row, column, tap, end);
        }
    }
}

/* ---- Results ----------------------------------------------------------------------------------------------------- */

/* The floats of one block's filters, and their bits if they are asked for too, tile by tile. */
static void expand_block(const channels_band *band, size_t block) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const epilogue *epilogue = conv->epilogue;
    const size_t begin = block * 8 * plan->lane_bytes, first = band->group * plan->group_filters + begin;
    const size_t filters = smaller(plan->group_filters - begin, 8 * plan->lane_bytes);
    const size_t plane = job->out_height * plan->out_width;
    const bool steps = epilogue->steps.count > 0;
    const epilogue_tensors tensors = {.inputs = job->inputs,
                                      .y = job->y,
                                      .bits = job->bits,
                                      .channels = (size_t)plan->params.out_channels,
                                      .groups = (size_t)plan->params.group,
                                      .height = job->out_height,
                                      .width = plan->out_width};
    _Alignas(64) float values[64][DOT_TILE]; /* where there are steps */
    uint64_t signs[64];
    channels_expansion tile_counts = {.pixel_bytes = job->vectors_bytes, .planes = 1 + (size_t)plan->counters};
    for (size_t row = 0, rows; row < band->rows; row += rows) {
        rows = smaller(job->tile_rows, band->rows - row);
        for (size_t column = 0, columns; column < plan->out_width; column += columns) {
            columns = smaller(job->tile_columns, plan->out_width - column);
            const epilogue_tile tile = {band->image, band->row + row, rows, column, columns};
            const size_t pixel = row * plan->out_width + column;
            tile_counts.counters = band->counts + pixel * job->vectors_bytes;
            tile_counts.pixels = rows * columns;
            tile_counts.add = band->add + pixel;
            tile_counts.inside = band->inside + pixel;
            conv->steps->numbers(&tile_counts, band->numbers);
            for (size_t filter = 0; filter < filters; filter += 64) {
                const size_t channel = first + filter, count = smaller(filters - filter, 64);
                const size_t at =
                    (band->image * tensors.channels + channel) * plane + band->row * plan->out_width + pixel;
                const channels_floats to = {
                    .first = filter,
                    .count = count,
                    .scale = epilogue->scale + channel,
                    .shift = epilogue->shift + channel,
                    .y = steps ? values[0] : job->y + at,
                    .y_step = steps ? DOT_TILE : plane,
                    .threshold = epilogue->threshold ? epilogue->threshold + channel : NULL,
                    .signs = signs,
                };
                conv->steps->turn(&tile_counts, band->numbers, &to);
                epilogue_finish_tile(epilogue, &tensors, &tile, channel, count, values, signs);
            }
        }
    }
}

/* The signs of a band, a vector of filters for each position, back into rows of each filter: those of a band are one
 * run of bytes. */
static void pack_signs(const channels_band *band) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    const size_t row_bytes = sign_bytes(plan->out_width), bytes = band->rows * row_bytes;
    const size_t block_positions = job->band_rows * 8 * row_bytes;
    const size_t first_channel = band->image * (size_t)plan->params.out_channels + band->group * plan->group_filters;
    transpose_function *transpose = transpose_for(plan->isa);
    uint64_t rows[MOST_LANE_WORDS][64] = {{0}};
    for (size_t byte = 0; byte < bytes; byte += 8) {
        const size_t run = smaller(bytes - byte, 8);
        for (size_t filter = 0; filter < plan->group_filters; filter += 64) {
            const size_t block = filter / (8 * plan->lane_bytes), word = filter / 64 % (plan->lane_bytes / 8);
            const uint8_t *from = band->signs + (block * block_positions + byte * 8) * plan->lane_bytes;
            if (word == 0)
                job->conv->steps->split(from, 8 * run, rows);
            const size_t filters = smaller(plan->group_filters - filter, 64);
            transpose(rows[word], filters);
            uint8_t *to = job->bits + ((first_channel + filter) * job->out_height + band->row) * row_bytes + byte;
            for (size_t f = 0; f < filters; f++, to += job->out_height * row_bytes)
                store_word(to, rows[word][f], run);
        }
    }
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

/* Items [begin, end): a group of a band of an image, the groups counting fastest. */
static void convolve(void *argument, size_t piece, size_t begin, size_t end) {
    const channels_job *job = argument;
    const channels_plan *plan = &job->conv->plan;
    const size_t groups = (size_t)plan->params.group;
    uint8_t *memory = job->pieces + piece * job->piece_bytes;
    channels_band band = {
        .job = job,
        .pixels = (uint64_t *)(void *)(memory + job->pixels),
        .offsets = (uint16_t *)(void *)(memory + job->offsets),
        .lists = memory + job->lists,
        .tap_lists = (const channels_list **)(void *)(memory + job->tap_lists),
        .tap_places = (size_t *)(void *)(memory + job->tap_places),
        .tap_steps = (size_t *)(void *)(memory + job->tap_steps),
        .joined = (uint16_t *)(void *)(memory + job->joined),
        .tap_sums = memory + job->tap_sums,
        .starts = memory + job->starts,
        .signs = memory + job->signs,
        .counts = memory + job->counts,
        .numbers = (uint16_t *)(void *)(memory + job->numbers),
        .add = (int32_t *)(void *)(memory + job->add),
        .inside = (int32_t *)(void *)(memory + job->inside),
    };
    for (size_t item = begin; item < end; item++) {
        band.group = item % groups;
        band.image = item / groups / job->bands;
        band.row = item / groups % job->bands * job->band_rows;
        band.rows = smaller(job->band_rows, job->out_height - band.row);
        prepare(&band);
        if (!job->y) /* positions beyond a row's end get no signs */
            memset(band.signs, 0, plan->blocks * job->band_rows * 8 * sign_bytes(plan->out_width) * plan->lane_bytes);
        for (size_t block = 0; block < plan->blocks; block++) {
            count_block(&band, block);
            if (job->y)
                expand_block(&band, block);
        }
        if (!job->y)
            pack_signs(&band);
    }
}

static void lay_out(channels_job *job, bool *overflow) {
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const bnncc_conv_params *params = &plan->params;
    const size_t rows =
        plus(times(job->band_rows - 1, (size_t)params->strides[0], overflow),
             times((size_t)params->kernel_shape[0] - 1, (size_t)params->dilations[0], overflow) + 1, overflow);
    const size_t input_rows = smaller(rows, job->height), input_positions = times(input_rows, job->row_pitch, overflow);
    const size_t lists = plus(times(input_rows, job->lists_of_row, overflow), 1, overflow);
    const size_t out_positions = times(job->band_rows, 8 * sign_bytes(plan->out_width), overflow);
    size_t bytes = 0;
    /* And room for the reference, the padding, and what is read beyond the last of them. */
    const size_t pixel_words = plus(times(plus(input_positions, 2, overflow), job->words, overflow), 8, overflow);
    job->pixels = scratch_reserve(&bytes, pixel_words, sizeof(uint64_t), overflow);
    job->offsets = scratch_reserve(&bytes, plan->group_channels + LIST_STEP, sizeof(uint16_t), overflow);
    job->lists = scratch_reserve(&bytes, lists, job->list_bytes, overflow);
    job->tap_lists = scratch_reserve(&bytes, plan->chunk_taps, sizeof(channels_list *), overflow);
    job->tap_places = scratch_reserve(&bytes, plan->chunk_taps, sizeof(size_t), overflow);
    job->tap_steps = scratch_reserve(&bytes, plan->chunk_taps, sizeof(size_t), overflow);
    job->joined = scratch_reserve(&bytes, times(LIST_PARTS, job->part_numbers, overflow), sizeof(uint16_t), overflow);
    job->tap_sums =
        plan->lane_bytes + scratch_reserve(&bytes, 1 + plan->blocks * plan->taps, job->vectors_bytes, overflow);
    job->starts = scratch_reserve(&bytes, conv->column_classes, job->vectors_bytes, overflow);
    job->signs =
        scratch_reserve(&bytes, job->y ? 0 : times(out_positions, plan->blocks, overflow), plan->lane_bytes, overflow);
    const size_t pixels = times(job->band_rows, plan->out_width, overflow);
    job->keeps_counts = job->y || plan->chunk_taps < plan->taps;
    job->counts = scratch_reserve(&bytes, job->keeps_counts ? pixels : 0, job->vectors_bytes, overflow);
    job->numbers = scratch_reserve(&bytes, job->y ? DOT_TILE * 8 * plan->lane_bytes : 0, sizeof(uint16_t), overflow);
    job->add = scratch_reserve(&bytes, pixels, sizeof(int32_t), overflow);
    job->inside = scratch_reserve(&bytes, pixels, sizeof(int32_t), overflow);
    job->piece_bytes = bytes;
}

bnncc_status channels_conv_run(const channels_conv *conv, const uint8_t *x, steps_inputs inputs, size_t batch,
                               size_t height, size_t out_height, float *y, uint8_t *bits,
                               const bnncc_parallel *parallel, bnncc_error *error) {
    const size_t band_bytes = (size_t)512 << 10, scratch_bytes = (size_t)64 << 20;
    const channels_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, row_bytes = sign_bytes((size_t)plan->params.width);
    bool overflow = false;
    channels_job job = {
        .conv = conv,
        .x = x,
        .x_end = x + batch * (size_t)plan->params.in_channels * height * row_bytes,
        .inputs = inputs,
        .y = y,
        .bits = bits,
        .height = height,
        .out_height = out_height,
        .words = sign_words(plan->group_channels),
        .row_pitch = 8 * row_bytes,
        .list_bytes = channels_list_bytes(plan->group_channels),
        .lists_of_row = plan->lists_of_row,
        .vectors_bytes = (1 + (size_t)plan->counters) * plan->lane_bytes,
    };
    job.part_numbers = plan->chunk_taps * plan->group_channels + LIST_STEP;
    /* As few bands as there are threads, since what they prepare overlaps; more where lists would leave the cache. */
    const size_t rows = times(times(batch, groups, &overflow), out_height, &overflow);
    const size_t row_cost = times(plan->out_width, plan->blocks * (plan->length / 4 + 64), &overflow);
    size_t pieces = parallel_pieces(parallel, rows, row_cost);
    const size_t wanted = smaller(pieces, parallel_threads(parallel));
    const size_t bands = overflow ? 1 : smaller(divide_up(wanted, batch * groups), out_height);
    job.band_rows = divide_up(out_height, bands);
    lay_out(&job, &overflow);
    while (job.band_rows > 1 && (overflow || job.piece_bytes > band_bytes)) {
        overflow = false;
        job.band_rows = divide_up(job.band_rows, 2);
        lay_out(&job, &overflow);
    }
    job.bands = divide_up(out_height, job.band_rows);
    job.tile_columns = smaller(plan->out_width, DOT_TILE);
    job.tile_rows = job.tile_columns == plan->out_width ? DOT_TILE / job.tile_columns : 1;
    const size_t items = times(times(batch, groups, &overflow), job.bands, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");
    pieces = smaller(smaller(pieces, items), scratch_bytes / job.piece_bytes + 1);
    job.pieces = scratch_take(pieces, job.piece_bytes);
    if (!job.pieces)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a convolution");
    parallel_run(parallel, items, pieces, convolve, &job);
    scratch_give(job.pieces);
    return BNNCC_OK;
}
