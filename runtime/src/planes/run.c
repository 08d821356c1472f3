/* A run of the bit-plane kernel: sheets of lanes through preparing, counting and packing, on the caller's threads.
 *
 * Sheets are worked at in groups, each group in stages: its sheets' tables; their planes, some channels of a group at a
 * time; the counting, one vector of output rows and one group of channels at a time, the float output being made right
 * there; the packing of bits, channel by channel. Without threads a group is one sheet, whose planes stay in the cache.
 * Every piece of work writes to places of its own, so order and threads cannot matter. */
#include "run.h"
#include "checked.h"
#include "parallel.h"
#include "scratch.h"


/* ---- What sheets are made of ------------------------------------------------------------------------------------- */

/* The bands of a sheet. Those that nothing is left for are not used. */
static void find_slots(planes_sheet *sheet, size_t number) {
    const planes_job *job = sheet->job;
    const size_t first = number * job->slots;
    sheet->used_slots = smaller(job->slots, job->total_slots - first);
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const size_t band = first + slot, map = band / job->bands;
        sheet->band[slot] = (planes_slot){map / job->conv->plan.segments, map % job->conv->plan.segments,
                                          band % job->bands * job->rows};
    }
}

/* What goes from where to where for every channel of a sheet. */
static void find_moves(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const bnncc_conv_params *params = &conv->plan.params;
    const size_t in_row = sign_bytes((size_t)params->width), out_row = sign_bytes(conv->plan.out_width);
    const size_t in_image = (size_t)params->in_channels * job->height * in_row;
    const size_t out_image = (size_t)params->out_channels * job->out_height * out_row;
    sheet->rows_in_count = sheet->padding_count = sheet->farthest_row = sheet->rows_out_count = 0;
    for (size_t slot = 0; slot < job->slots; slot++) {
        const planes_slot *band = sheet->band + slot;
        for (size_t i = 0; i < job->input_rows; i++) {
            const size_t to = i * conv->plan.lane_bytes + slot * conv->plan.pitch;
            int64_t row = -1;
            if (slot < sheet->used_slots)
                row = (int64_t)band->row * params->strides[0] - params->pads[0] + (int64_t)i;
            if (row >= 0 && row < (int64_t)job->height) {
                const size_t from = band->image * in_image + (size_t)row * in_row;
                sheet->rows_in[sheet->rows_in_count++] = (planes_move){from, to};
                sheet->farthest_row = from > sheet->farthest_row ? from : sheet->farthest_row;
            } else {
                sheet->padding_slots[sheet->padding_count++] = to;
            }
        }
    }
    for (int whole = 1; whole >= 0; whole--) {
        for (size_t slot = 0; slot < sheet->used_slots; slot++) {
            const planes_slot *band = sheet->band + slot;
            for (size_t j = 0; j < job->rows && band->row + j < job->out_height; j++) {
                /* A slot may be stored whole where what follows the row are rows of this band, which come later. */
                const size_t after = smaller(job->rows, job->out_height - band->row) - j;
                const bool fits =
                    out_row == conv->plan.pitch || (conv->plan.segments == 1 && after * out_row >= conv->plan.pitch);
                if (fits == whole)
                    sheet->rows_out[sheet->rows_out_count++] =
                        (planes_move){slot * conv->plan.pitch + j * conv->plan.lane_bytes,
                                      band->image * out_image + (band->row + j) * out_row + band->segment * 8};
            }
        }
        if (whole)
            sheet->whole_rows_out = sheet->rows_out_count;
    }
}

/* Which class of rows an output row is of. */
static size_t row_class(const planes_job *job, size_t row) {
    const bnncc_conv_params *params = &job->conv->plan.params;
    if (params->pad_value)
        return 0;
    const int64_t top = (int64_t)row * params->strides[0] - params->pads[0], dilation = params->dilations[0];
    const int64_t over = top + (params->kernel_shape[0] - 1) * dilation - ((int64_t)job->height - 1);
    /* Where all taps are outside, the last class says so. */
    const planes_plan *plan = &job->conv->plan;
    const size_t above = top < 0 ? smaller((size_t)((-top + dilation - 1) / dilation), plan->above_count - 1) : 0;
    const size_t below = over > 0 ? smaller((size_t)((over + dilation - 1) / dilation), plan->below_count - 1) : 0;
    return above * plan->below_count + below;
}

/* The constants' classes in vector j of a sheet: that of most slots first, a mask for each other one. */
static void find_classes(const planes_sheet *sheet, size_t j, uint8_t *masks, planes_block *block) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    size_t base = SIZE_MAX;
    block->mask_count = 0;
    block->masks = masks;
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const size_t row = sheet->band[slot].row + j;
        if (row >= job->out_height)
            continue;
        const size_t at = row_class(job, row) * conv->class_words + sheet->band[slot].segment * conv->segment_words;
        if (base == SIZE_MAX || (slot == 1 && block->mask_count == 0))
            base = at; /* the second slot's: the first is the map's upper edge */
    }
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const size_t row = sheet->band[slot].row + j;
        if (row >= job->out_height)
            continue;
        const size_t at = row_class(job, row) * conv->class_words + sheet->band[slot].segment * conv->segment_words;
        if (at == base)
            continue;
        size_t i = 0;
        while (i < block->mask_count && block->mask_class[i] != (ptrdiff_t)(at - base))
            i++;
        if (i == block->mask_count) {
            block->mask_class[block->mask_count++] = (ptrdiff_t)(at - base);
            memset(masks + i * conv->plan.lane_bytes, 0, conv->plan.lane_bytes);
        }
        memset(masks + i * conv->plan.lane_bytes + slot * conv->plan.pitch, 0xff, conv->plan.pitch);
    }
    block->constants = conv->constants + (base == SIZE_MAX ? 0 : base);
}

/* Packs what a sheet's blocks have left for one channel: `pitch` is a constant where it is called. */
__attribute__((always_inline)) static inline void store_rows(const planes_sheet *sheet, size_t channel,
                                                             const uint8_t *signs, const size_t pitch) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const size_t width = conv->plan.out_width, row_bytes = sign_bytes(width);
    uint8_t *to = job->bits + channel * job->out_height * row_bytes;
    const uint64_t inside = low_bits(width);
    const planes_move *move = sheet->rows_out, *whole = move + sheet->whole_rows_out,
                      *end = move + sheet->rows_out_count;
    for (; move < whole; move++)
        store_slot(to + move->to, load_slot(signs + move->from, pitch) & inside, pitch);
    for (; move < end; move++) {
        const size_t columns = smaller(width - move->to % row_bytes * 8, 64);
        store_word(to + move->to, load_slot(signs + move->from, pitch) & low_bits(columns), sign_bytes(columns));
    }
}

/* Rows of a word's slots that follow one another in the output, so that their steps are taken at once: a few pixels are
 * hardly worth a call. y: where they begin in the group's first channel. */
typedef struct word_run {
    size_t first, end; /* slots */
    size_t pixels;
    float *y;
} word_run;

/* The runs of a word; returns how many there are. */
static size_t find_runs(const planes_expansion *word, word_run runs[8]) {
    size_t count = 0;
    for (size_t slot = 0; slot < 8 / word->pitch; slot++) {
        word_run *last = count ? &runs[count - 1] : NULL;
        if (!word->count[slot])
            continue;
        if (last && last->end == slot && word->y[slot] == last->y + last->pixels) {
            last->end++;
            last->pixels += word->count[slot];
        } else {
            runs[count++] = (word_run){slot, slot + 1, word->count[slot], word->y[slot]};
        }
    }
    return count;
}

/* The steps on a run of a channel, and their bits as slots. */
static void finish_run(const planes_job *job, const planes_expansion *word, const word_run *run, size_t channel,
                       float *values, float *y, uint8_t *slots) {
    const float *residual = job->residual ? job->residual + (y - job->y) : NULL;
    uint64_t signs = epilogue_finish(job->conv->epilogue, channel, values, residual, run->pixels, y);
    if (!job->bits)
        return;
    store_slot(slots + run->first * word->pitch, signs, word->pitch);
    for (size_t slot = run->first + 1; slot < run->end; slot++) {
        signs >>= word->count[slot - 1]; /* by less than 64, since there are more */
        store_slot(slots + slot * word->pitch, signs, word->pitch);
    }
}

/* Channels [begin, end) of one word, EXPAND_CHUNK at most, where there are steps. Their floats wait in the first cache
 * for each other: what was stored in parts of vectors cannot be loaded at once, and y, which may be the residual, is
 * written once. slots: the signs of the word's slots in the group's first channel. */
static void expand_with_steps(const planes_job *job, const planes_expansion *word, const word_run *runs,
                              size_t run_count, size_t group, size_t begin, size_t end, uint8_t *slots) {
    _Alignas(64) float values[EXPAND_CHUNK][64];
    const planes_plan *plan = &job->conv->plan;
    const size_t slot_bytes = job->rows * plan->lane_bytes;
    planes_expansion here = *word; /* from channel `begin` on, its rows being those of `values` */
    here.counted += begin * word->counted_step;
    here.add += begin;
    here.factor += begin;
    here.scale += begin;
    here.shift += begin;
    here.y_step = 64;
    float *to = values[0];
    for (size_t slot = 0; slot < 8 / word->pitch; slot++)
        if (word->count[slot]) {
            here.sums[slot] += begin * word->sums_step;
            here.y[slot] = to;
            to += word->count[slot];
        }
    job->conv->expand(&here, 0, end - begin);
    for (size_t channel = begin; channel < end; channel++) {
        float *from = values[channel - begin];
        for (size_t i = 0; i < run_count; from += runs[i].pixels, i++)
            finish_run(job, word, &runs[i], group * plan->group_filters + channel, from,
                       runs[i].y + channel * word->y_step, slots + channel * slot_bytes);
    }
}

/* The floats of one block of one group: from counters, [channel][1 + counter_planes] vectors, parity first. */
static void expand_block(const planes_sheet *sheet, size_t group, size_t j, const uint8_t *counted) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t channels = (size_t)plan->params.out_channels, word_slots = 8 / plan->pitch;
    const size_t channel_bytes = (1 + (size_t)plan->counter_planes) * plan->lane_bytes,
                 first = group * plan->group_filters;
    const bool steps = conv->epilogue->steps.count > 0;
    planes_expansion words[8];
    word_run runs[8][8];
    size_t word_count = 0, run_counts[8];
    for (size_t begin = 0; begin < sheet->used_slots; begin += word_slots) {
        planes_expansion *word = words + word_count++;
        *word = (planes_expansion){
            .counted = counted + begin * plan->pitch,
            .plane_bytes = plan->lane_bytes,
            .planes = 1 + (size_t)plan->counter_planes,
            .pitch = plan->pitch,
            .counted_step = channel_bytes,
            .sums_step = plan->out_width,
            .y_step = job->out_height * plan->out_width,
            .add = conv->adds + first,
            .factor = conv->factors + first,
            .scale = conv->epilogue->scale + first,
            .shift = conv->epilogue->shift + first,
        };
        for (size_t i = 0; i < word_slots && begin + i < sheet->used_slots; i++) {
            const planes_slot *band = sheet->band + begin + i;
            const size_t row = band->row + j, column = band->segment * 64;
            if (row >= job->out_height)
                continue;
            word->count[i] = smaller(plan->out_width - column, 64);
            word->sums[i] = conv->sums + (row_class(job, row) * channels + first) * plan->out_width + column;
            word->y[i] = job->y + ((band->image * channels + first) * job->out_height + row) * plan->out_width + column;
        }
        if (steps)
            run_counts[word_count - 1] = find_runs(word, runs[word_count - 1]);
    }
    /* All lanes of some channels after the other, while their counters are in the nearest cache. */
    uint8_t *slots = sheet->signs + (first * job->rows + j) * plan->lane_bytes;
    for (size_t begin = 0, end; begin < plan->group_filters; begin = end) {
        end = smaller(begin + EXPAND_CHUNK, plan->group_filters);
        for (size_t i = 0; i < word_count; i++) {
            if (steps)
                expand_with_steps(job, words + i, runs[i], run_counts[i], group, begin, end, slots + i * 8);
            else
                conv->expand(words + i, begin, end);
        }
    }
}

static void store_channel(const planes_sheet *sheet, size_t channel, const uint8_t *signs) {
    switch (sheet->job->conv->plan.pitch) {
    case 8:
        store_rows(sheet, channel, signs, 8);
        break;
    case 4:
        store_rows(sheet, channel, signs, 4);
        break;
    case 2:
        store_rows(sheet, channel, signs, 2);
        break;
    default:
        store_rows(sheet, channel, signs, 1);
    }
}

/* ---- Stages ------------------------------------------------------------------------------------------------------ */

/* Sheets [begin, end) of those at hand. */
static void describe_sheets(void *argument, size_t begin, size_t end) {
    const planes_job *job = argument;
    const planes_plan *plan = &job->conv->plan;
    const size_t zero_bytes = job->input_rows * plan->lane_bytes;
    for (size_t i = begin; i < end; i++) {
        planes_sheet *sheet = job->sheets + i;
        find_slots(sheet, job->first_sheet + i);
        find_moves(sheet);
        planes_choose_placing(sheet);
        for (size_t group = 0; group < (size_t)plan->params.group; group++)
            memset(sheet->planes + group * job->plane_bytes, 0, zero_bytes);
    }
}

/* Items [begin, end): a chunk of channels of a group of a sheet, the chunks counting fastest. */
static void place_chunks(void *argument, size_t begin, size_t end) {
    const planes_job *job = argument;
    const planes_plan *plan = &job->conv->plan;
    const size_t groups = (size_t)plan->params.group, vector_bytes = job->input_rows * plan->lane_bytes;
    const size_t channel_bytes = (size_t)plan->params.kernel_shape[1] * vector_bytes;
    for (size_t item = begin; item < end; item++) {
        const size_t chunk = item % job->chunks, group = item / job->chunks % groups;
        const planes_sheet *sheet = job->sheets + item / job->chunks / groups;
        const size_t first = chunk * PLACE_CHUNK, channels = group * plan->group_channels;
        planes_place(sheet, channels + first, channels + smaller(first + PLACE_CHUNK, plan->group_channels),
                     sheet->planes + group * job->plane_bytes + vector_bytes + first * channel_bytes);
    }
}

/* Items [begin, end): a group of a row of a sheet's bands, the groups counting fastest. */
static void count_rows(void *argument, size_t piece, size_t begin, size_t end) {
    const planes_job *job = argument;
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, lane_bytes = plan->lane_bytes;
    uint8_t *counters = job->pieces + piece * job->piece_bytes;
    uint8_t *masks = counters + job->counter_bytes, *counted = masks + job->mask_bytes;
    for (size_t item = begin; item < end; item++) {
        const size_t group = item % groups, j = item / groups % job->rows;
        const planes_sheet *sheet = job->sheets + item / groups / job->rows;
        planes_block block = {
            .program = conv->programs + group,
            .planes = sheet->planes + group * job->plane_bytes + j * (size_t)plan->params.strides[0] * lane_bytes,
            .parity = counters,
            .counters = counters + lane_bytes,
            .signs_pitch = job->rows * lane_bytes,
            .want_signs = job->compares_dots,
            .counted = job->y ? counted : NULL,
        };
        if (job->compares_dots) {
            block.signs = sheet->signs + (group * plan->group_filters * job->rows + j) * lane_bytes;
            find_classes(sheet, j, masks, &block);
            block.constants += group * conv->group_words;
        }
        conv->count(&block);
        if (job->y)
            expand_block(sheet, group, j, counted);
    }
}

/* Items [begin, end): an output channel of a sheet, the channels counting fastest. */
static void pack_channels(void *argument, size_t begin, size_t end) {
    const planes_job *job = argument;
    const planes_plan *plan = &job->conv->plan;
    const size_t channels = (size_t)plan->params.out_channels;
    for (size_t item = begin; item < end; item++) {
        const planes_sheet *sheet = job->sheets + item / channels;
        const size_t channel = item % channels;
        store_channel(sheet, channel, sheet->signs + channel * job->rows * plan->lane_bytes);
    }
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

/* Appends a part to a block of memory, on a cache line; returns where it begins. */
static size_t reserve(size_t *total, size_t count, size_t size, bool *overflow) {
    const size_t begin = *total;
    *total = plus(begin, times(plus(times(count, size, overflow), 63, overflow) / 64, 64, overflow), overflow);
    return begin;
}

/* Where a sheet's parts are in its memory. */
typedef struct sheet_layout {
    size_t planes, signs, rows_in, rows_out, padding_slots, permutations, inside, bytes;
} sheet_layout;

static sheet_layout lay_out(const planes_job *job, bool *overflow) {
    const planes_plan *plan = &job->conv->plan;
    const size_t groups = (size_t)plan->params.group, channels = (size_t)plan->params.out_channels;
    const size_t sign_vectors = job->bits ? times(channels, job->rows, overflow) : 0;
    const size_t moves_in = job->slots * job->input_rows; /* indices of 16 bits reach all input rows */
    const size_t permuted = plan->narrow ? job->input_rows : 0;
    sheet_layout at = {.bytes = 0};
    at.planes = reserve(&at.bytes, groups, job->plane_bytes, overflow);
    at.signs = reserve(&at.bytes, sign_vectors, plan->lane_bytes, overflow);
    at.rows_in = reserve(&at.bytes, moves_in, sizeof(planes_move), overflow);
    at.rows_out = reserve(&at.bytes, job->slots * job->rows, sizeof(planes_move), overflow);
    at.padding_slots = reserve(&at.bytes, moves_in, sizeof(size_t), overflow);
    at.permutations = reserve(&at.bytes, times(job->images, permuted, overflow), sizeof(planes_permutation), overflow);
    at.inside = reserve(&at.bytes, permuted, 64, overflow);
    return at;
}

static void set_up_sheet(planes_job *job, const sheet_layout *at, uint8_t *memory, planes_sheet *sheet) {
    *sheet = (planes_sheet){
        .job = job,
        .planes = memory + at->planes,
        .signs = memory + at->signs,
        .rows_in = (planes_move *)(void *)(memory + at->rows_in),
        .rows_out = (planes_move *)(void *)(memory + at->rows_out),
        .padding_slots = (size_t *)(void *)(memory + at->padding_slots),
        .permutations = (planes_permutation *)(void *)(memory + at->permutations),
        .inside = memory + at->inside,
    };
}

/* Bytes of the counters, masks and counts of a piece of work. */
static void size_pieces(planes_job *job, bool *overflow) {
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t planes = (size_t)plan->counter_planes;
    size_t sets = 0;
    for (size_t group = 0; group < (size_t)plan->params.group; group++)
        sets = conv->programs[group].counter_sets > sets ? conv->programs[group].counter_sets : sets;
    const size_t vectors = plus(2, times(sets, planes, overflow), overflow); /* the parity, and a last carry */
    const size_t counted = job->y ? times(plan->group_filters, planes + 1, overflow) : 0;
    size_t bytes = 0;
    reserve(&bytes, vectors, plan->lane_bytes, overflow);
    job->counter_bytes = bytes;
    reserve(&bytes, job->compares_dots ? 64 : 0, plan->lane_bytes, overflow);
    job->mask_bytes = bytes - job->counter_bytes;
    reserve(&bytes, counted, plan->lane_bytes, overflow);
    job->piece_bytes = bytes;
}

bnncc_status planes_conv_run(const planes_conv *conv, const uint8_t *x, const float *residual, size_t batch,
                             size_t height, size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                             bnncc_error *error) {
    const size_t group_bytes = (size_t)8 << 20, scratch_bytes = (size_t)64 << 20;
    const planes_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, columns = (size_t)plan->params.kernel_shape[1];
    const size_t channels = (size_t)plan->params.out_channels;
    bool overflow = false;
    planes_job job = {.conv = conv,
                      .x = x,
                      .residual = residual,
                      .y = y,
                      .bits = bits,
                      .compares_dots = conv->epilogue->threshold != NULL,
                      .height = height,
                      .out_height = out_height};
    job.x_end = x + batch * (size_t)plan->params.in_channels * height * sign_bytes((size_t)plan->params.width);
    job.slots = plan->lane_bytes / plan->pitch;
    job.rows = planes_band_rows(plan, out_height);
    job.input_rows = plan->planned_rows;
    job.bands = divide_up(out_height, job.rows);
    job.total_slots = times(times(batch, plan->segments, &overflow), job.bands, &overflow);
    const size_t sheets = divide_up(job.total_slots, job.slots);
    job.plane_bytes = (1 + plan->group_channels * columns) * job.input_rows * plan->lane_bytes; /* less than 2^19 */
    job.images = smaller(batch, job.slots / job.bands + 2);
    job.chunks = divide_up(plan->group_channels, PLACE_CHUNK);
    planes_find_keep(&job);
    size_pieces(&job, &overflow);
    const sheet_layout layout = lay_out(&job, &overflow);
    const size_t at_once = overflow ? 1 : parallel ? smaller(sheets, group_bytes / layout.bytes + 1) : 1;
    const size_t sheet_bytes = times(at_once, layout.bytes, &overflow);
    const size_t rows = times(times(at_once, job.rows, &overflow), groups, &overflow);
    times(times(at_once, job.chunks, &overflow), groups, &overflow);
    times(at_once, channels, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");
    const size_t count_cost = conv->group_planes;
    const size_t most_pieces = scratch_bytes / job.piece_bytes + 1;
    const size_t pieces = smaller(parallel_pieces(parallel, rows, count_cost), most_pieces);
    /* In one block: of several, whose sum exceeds what the C library keeps, it would give pages back after every run.
     */
    size_t bytes = 0;
    const size_t sheets_at = reserve(&bytes, at_once, sizeof *job.sheets, &overflow);
    const size_t pieces_at = reserve(&bytes, pieces, job.piece_bytes, &overflow);
    const size_t memory_at = reserve(&bytes, sheet_bytes, 1, &overflow);
    uint8_t *memory = overflow ? NULL : scratch_take(bytes, 1);
    if (!memory)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a convolution");
    job.sheets = (planes_sheet *)(void *)(memory + sheets_at);
    job.pieces = memory + pieces_at;
    for (size_t i = 0; i < at_once; i++)
        set_up_sheet(&job, &layout, memory + memory_at + i * layout.bytes, job.sheets + i);
    for (; job.first_sheet < sheets; job.first_sheet += at_once) {
        const size_t now = smaller(at_once, sheets - job.first_sheet), now_rows = now * job.rows * groups;
        parallel_ranges(parallel, now, 2000, describe_sheets, &job);
        parallel_ranges(parallel, now * groups * job.chunks, PLACE_CHUNK * columns * job.input_rows, place_chunks,
                        &job);
        parallel_run(parallel, now_rows, smaller(pieces, now_rows), count_rows, &job);
        if (bits)
            parallel_ranges(parallel, now * channels, job.rows * job.slots, pack_channels, &job);
    }
    scratch_give(memory);
    return BNNCC_OK;
}
