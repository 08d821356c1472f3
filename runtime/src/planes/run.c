/* A run of the bit-plane kernel: one group of one sheet of lanes after the other, on the caller's threads.
 *
 * A group of a sheet takes three steps, which nothing else depends on: its planes are prepared; they are counted, one
 * vector of output rows at a time, the float output being made right there; bits are packed, channel by channel. The
 * planes stay in the cache of one thread. Every piece of work writes to places of its own, so order and threads cannot
 * matter. */
#include "run.h"
#include "checked.h"
#include "parallel.h"
#include "scratch.h"

/* ---- What sheets are made of ------------------------------------------------------------------------------------- */

/* The bands of a sheet. Those that nothing is left for are not used. */
static void find_slots(planes_sheet *sheet, size_t number) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t first = number * job->slots, row_bytes = sign_bytes(plan->out_width);
    const size_t channels = (size_t)plan->params.out_channels;
    sheet->used_slots = smaller(job->slots, job->total_slots - first);
    size_t following = 0; /* rows of the same map in later slots */
    for (size_t slot = sheet->used_slots; slot-- > 0;) {
        const size_t band = first + slot, map = band / job->bands;
        planes_slot *here = &sheet->band[slot];
        *here = (planes_slot){
            .image = map / plan->segments, .segment = map % plan->segments, .row = band % job->bands * job->rows};
        here->rows = smaller(job->rows, job->out_height - here->row);
        here->columns = smaller(plan->out_width - here->segment * 64, 64);
        here->to = (here->image * channels * job->out_height + here->row) * row_bytes + here->segment * 8;
        if (slot + 1 == sheet->used_slots || here[1].row == 0)
            following = 0;
        /* A slot may be stored whole where what follows the row are rows of this sheet, which are stored later. */
        const size_t together = here->rows + following, room = divide_up(plan->pitch, row_bytes) - 1;
        here->whole_rows = plan->segments > 1 || together < room ? 0 : smaller(here->rows, together - room);
        following = together;
    }
}

/* What goes from where to where for every input channel of a sheet. */
static void find_moves(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const bnncc_conv_params *params = &plan->params;
    const size_t row_bytes = sign_bytes((size_t)params->width);
    const size_t image_bytes = (size_t)params->in_channels * job->height * row_bytes;
    sheet->rows_in_count = sheet->padding_count = sheet->farthest_row = 0;
    for (size_t slot = 0; slot < job->slots; slot++) {
        const planes_slot *band = sheet->band + slot;
        for (size_t i = 0; i < job->input_rows; i++) {
            const size_t to = i * plan->lane_bytes + slot * plan->pitch;
            int64_t row = -1;
            if (slot < sheet->used_slots)
                row = (int64_t)band->row * params->strides[0] - params->pads[0] + (int64_t)i;
            if (row >= 0 && row < (int64_t)job->height) {
                const size_t from = band->image * image_bytes + (size_t)row * row_bytes;
                sheet->rows_in[sheet->rows_in_count++] = (planes_move){from, to};
                sheet->farthest_row = from > sheet->farthest_row ? from : sheet->farthest_row;
            } else {
                sheet->padding_slots[sheet->padding_count++] = to;
            }
        }
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

/* Runs of slots that follow one another in the output, so that their steps are taken at once: a few pixels are hardly
 * worth a call. */
typedef struct joined_run {
    size_t first, end;        /* runs */
    size_t pixels;            /* 64 at most */
    float *y;                 /* where they begin in the group's first channel */
    const float *window_sums; /* of the same pixels in the group; NULL where no step reads them */
} joined_run;

/* Where the window sums of a group are from the output `y` of its first channel on. */
static const float *window_sums_at(const planes_job *job, size_t group, const float *y) {
    const planes_plan *plan = &job->conv->plan;
    const size_t channels = (size_t)plan->params.out_channels, groups = (size_t)plan->params.group;
    const size_t plane = job->out_height * plan->out_width, at = (size_t)(y - job->y), image = at / (channels * plane);
    const size_t fewer_planes = image * (channels - groups) + group * (plan->group_filters - 1);
    return job->inputs.window_sums ? job->inputs.window_sums + at - fewer_planes * plane : NULL;
}

/* Returns how many there are. */
static size_t join_runs(const planes_job *job, size_t group, const planes_expansion *block, joined_run joined[64]) {
    size_t count = 0;
    for (size_t i = 0; i < block->run_count; i++) {
        const planes_run *run = &block->runs[i];
        joined_run *last = count ? &joined[count - 1] : NULL;
        if (last && run->y == last->y + last->pixels && last->pixels + run->count <= 64) {
            last->end++;
            last->pixels += run->count;
        } else {
            joined[count++] = (joined_run){i, i + 1, run->count, run->y, window_sums_at(job, group, run->y)};
        }
    }
    return count;
}

/* The steps on a joined run of a channel, and their bits as slots, `signs` being those of the vector. */
static void finish_run(const planes_job *job, const planes_expansion *block, const joined_run *joined, size_t channel,
                       float *values, float *y, uint8_t *signs) {
    const float *residual = job->inputs.residual ? job->inputs.residual + (y - job->y) : NULL;
    const steps_inputs inputs = {residual, joined->window_sums};
    uint64_t word = epilogue_finish(job->conv->epilogue, channel, values, inputs, joined->pixels, y);
    /* Bits of dot products have been taken where they were counted. */
    for (size_t i = joined->first; job->bits && !job->compares_dots && i < joined->end; i++) {
        store_slot(signs + block->runs[i].at / 8, word, job->conv->plan.pitch);
        if (i + 1 < joined->end)
            word >>= block->runs[i].count; /* by less than 64, since there are more */
    }
}

/* The floats of a block where there are steps. Those of some channels wait in the first cache for each other: what was
 * stored in parts of vectors cannot be loaded at once, and y, which may be the residual, is written once. signs: the
 * vector of the group's first channel. */
static void expand_with_steps(const planes_job *job, const planes_expansion *block, size_t group, uint8_t *signs) {
    _Alignas(64) float values[EXPANDED_FLOATS];
    joined_run joined[64];
    planes_run runs[64];
    const planes_plan *plan = &job->conv->plan;
    const size_t joined_count = join_runs(job, group, block, joined);
    const size_t lanes = 8 * plan->lane_bytes, signs_step = job->rows * plan->lane_bytes;
    planes_expansion here = *block; /* its rows being those of `values` */
    here.runs = runs;
    here.y_step = lanes;
    for (size_t begin = 0, end; begin < plan->group_filters; begin = end) {
        end = smaller(begin + EXPANDED_FLOATS / lanes, plan->group_filters);
        float *to = values;
        for (size_t i = 0; i < block->run_count; to += runs[i].count, i++) {
            runs[i] = block->runs[i];
            runs[i].sums += begin * block->sums_step;
            runs[i].y = to;
        }
        here.counted = block->counted + begin * block->counted_step;
        here.add = block->add + begin;
        here.factor = block->factor + begin;
        here.scale = block->scale + begin;
        here.shift = block->shift + begin;
        job->conv->expand(&here, end - begin);
        for (size_t channel = begin; channel < end; channel++) {
            float *from = values + (channel - begin) * lanes;
            for (size_t i = 0; i < joined_count; from += joined[i].pixels, i++)
                finish_run(job, block, &joined[i], group * plan->group_filters + channel, from,
                           joined[i].y + channel * block->y_step, signs + channel * signs_step);
        }
    }
}

/* The floats of one block of one group: from counters, [channel][1 + counter_planes] vectors, parity first. */
static void expand_block(const planes_sheet *sheet, size_t group, size_t j, const uint8_t *counted) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t channels = (size_t)plan->params.out_channels, first = group * plan->group_filters;
    planes_run runs[64];
    planes_expansion block = {
        .counted = counted,
        .lane_bytes = plan->lane_bytes,
        .planes = 1 + (size_t)plan->counter_planes,
        .counted_step = (1 + (size_t)plan->counter_planes) * plan->lane_bytes,
        .sums_step = plan->out_width,
        .y_step = job->out_height * plan->out_width,
        .add = conv->adds + first,
        .factor = conv->factors + first,
        .scale = conv->epilogue->scale + first,
        .shift = conv->epilogue->shift + first,
        .runs = runs,
    };
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const planes_slot *band = sheet->band + slot;
        const size_t row = band->row + j, column = band->segment * 64;
        if (row < job->out_height)
            runs[block.run_count++] = (planes_run){
                .at = slot * plan->pitch * 8,
                .count = band->columns,
                .sums = conv->sums + (row_class(job, row) * channels + first) * plan->out_width + column,
                .y = job->y + ((band->image * channels + first) * job->out_height + row) * plan->out_width + column,
            };
    }
    if (conv->epilogue->steps.count > 0)
        expand_with_steps(job, &block, group, sheet->signs + j * plan->lane_bytes);
    else
        conv->expand(&block, plan->group_filters);
}

/* ---- A run ------------------------------------------------------------------------------------------------------- */

static void place_group(const planes_sheet *sheet, size_t group) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t channel_bytes = (size_t)plan->params.kernel_shape[1] * job->column_bytes;
    const size_t begin = group * plan->group_channels, end = begin + plan->group_channels;
    uint8_t *planes = sheet->planes + job->column_bytes;
    for (size_t first = begin; first < end; first += PLACE_CHUNK, planes += PLACE_CHUNK * channel_bytes)
        planes_place(sheet, first, smaller(first + PLACE_CHUNK, end), planes);
}

/* Row j of the sheet's bands. */
static void count_row(const planes_sheet *sheet, size_t group, size_t j) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t lane_bytes = plan->lane_bytes;
    planes_block block = {
        .program = conv->programs + group,
        .planes = sheet->planes + j * (size_t)plan->params.strides[0] * lane_bytes,
        .parity = sheet->counters,
        .counters = sheet->counters + plan->halves * lane_bytes,
        .signs_pitch = job->rows * lane_bytes,
        .want_signs = job->compares_dots,
        .counted = job->y ? sheet->counted : NULL,
    };
    if (job->compares_dots) {
        block.signs = sheet->signs + j * lane_bytes;
        find_classes(sheet, j, sheet->masks, &block);
        block.constants += group * conv->group_words;
    }
    conv->count(&block);
    if (job->y)
        expand_block(sheet, group, j, sheet->counted);
}

/* Items [begin, end): a group of a sheet, the groups counting fastest. */
static void convolve(void *argument, size_t piece, size_t begin, size_t end) {
    const planes_job *job = argument;
    const planes_plan *plan = &job->conv->plan;
    const size_t groups = (size_t)plan->params.group;
    uint8_t *memory = job->pieces + piece * job->piece_bytes;
    planes_sheet sheet = {
        .job = job,
        .planes = memory + job->planes,
        .signs = memory + job->signs,
        .counters = memory + job->counters,
        .masks = memory + job->masks,
        .counted = memory + job->counted,
        .rows_in = (planes_move *)(void *)(memory + job->rows_in),
        .padding_slots = (size_t *)(void *)(memory + job->padding_slots),
        .permutations = (planes_permutation *)(void *)(memory + job->permutations),
        .inside = memory + job->inside,
        .packings = (planes_packing *)(void *)(memory + job->packings),
    };
    memset(sheet.planes, 0, job->column_bytes);
    for (size_t item = begin; item < end; item++) {
        const size_t group = item % groups;
        if (item == begin || group == 0) {
            find_slots(&sheet, item / groups);
            find_moves(&sheet);
            planes_choose_placing(&sheet);
            planes_choose_packing(&sheet);
        }
        place_group(&sheet, group);
        for (size_t j = 0; j < job->rows; j++)
            count_row(&sheet, group, j);
        for (size_t i = 0; job->bits && i < plan->group_filters; i++)
            planes_pack(&sheet, group * plan->group_filters + i, sheet.signs + i * job->rows * plan->lane_bytes);
    }
}

static void lay_out(planes_job *job, bool *overflow) {
    const planes_conv *conv = job->conv;
    const planes_plan *plan = &conv->plan;
    const size_t columns = plan->group_channels * (size_t)plan->params.kernel_shape[1], lane_bytes = plan->lane_bytes;
    const size_t filters = plan->group_filters, counter_planes = (size_t)plan->counter_planes;
    const size_t moves = job->slots * job->input_rows, permuted = plan->narrow ? job->input_rows : 0;
    size_t sets = 0;
    for (size_t group = 0; group < (size_t)plan->params.group; group++)
        sets = conv->programs[group].counter_sets > sets ? conv->programs[group].counter_sets : sets;
    size_t *bytes = &job->piece_bytes;
    *bytes = 0;
    job->planes = scratch_reserve(bytes, 1 + columns, job->column_bytes, overflow); /* less than 2^19 */
    job->signs = scratch_reserve(bytes, job->bits ? times(filters, job->rows, overflow) : 0, lane_bytes, overflow);
    job->counters = scratch_reserve(bytes, plus(2, times(sets, counter_planes, overflow), overflow),
                                    plan->halves * lane_bytes, overflow);
    job->masks = scratch_reserve(bytes, job->compares_dots ? 64 : 0, lane_bytes, overflow);
    job->counted =
        scratch_reserve(bytes, job->y ? times(filters, counter_planes + 1, overflow) : 0, lane_bytes, overflow);
    job->rows_in = scratch_reserve(bytes, moves, sizeof(planes_move), overflow);
    job->padding_slots = scratch_reserve(bytes, moves, sizeof(size_t), overflow);
    job->permutations =
        scratch_reserve(bytes, times(job->images, permuted, overflow), sizeof(planes_permutation), overflow);
    job->inside = scratch_reserve(bytes, permuted, 64, overflow);
    job->packings =
        scratch_reserve(bytes, job->bits ? times(job->images, 2, overflow) : 0, sizeof(planes_packing), overflow);
}

bnncc_status planes_conv_run(const planes_conv *conv, const uint8_t *x, steps_inputs inputs, size_t batch,
                             size_t height, size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                             bnncc_error *error) {
    const size_t scratch_bytes = (size_t)64 << 20;
    const planes_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, work = conv->group_planes * groups;
    planes_split split;
    bool fits = planes_split_run(plan, work, batch, out_height, 1, &split), overflow = !fits;
    if (fits && parallel) { /* bands for several threads share less */
        const size_t vectors = times(split.rounds, split.rows, &overflow);
        const size_t pieces = parallel_pieces(parallel, vectors, conv->group_planes);
        fits = planes_split_run(plan, work, batch, out_height, smaller(parallel_threads(parallel), pieces), &split);
    }
    if (!fits || overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");
    planes_job job = {.conv = conv,
                      .x = x,
                      .inputs = inputs,
                      .y = y,
                      .bits = bits,
                      .compares_dots = conv->epilogue->threshold != NULL,
                      .height = height,
                      .out_height = out_height,
                      .rows = split.rows,
                      .input_rows = split.input_rows,
                      .bands = split.bands};
    job.x_end = x + batch * (size_t)plan->params.in_channels * height * sign_bytes((size_t)plan->params.width);
    job.slots = plan->lane_bytes / plan->pitch;
    job.total_slots = batch * plan->segments * job.bands;
    job.column_bytes = plan->planned_rows * plan->lane_bytes;
    job.images = smaller(batch, job.slots / job.bands + 2);
    planes_find_moves(&job);
    lay_out(&job, &overflow);
    const size_t items = times(split.sheets, groups, &overflow);
    const size_t most_pieces = overflow ? 1 : scratch_bytes / job.piece_bytes + 1;
    const size_t pieces = smaller(parallel_pieces(parallel, items, job.rows * conv->group_planes), most_pieces);
    job.pieces = overflow ? NULL : scratch_take(pieces, job.piece_bytes);
    if (!job.pieces)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a convolution");
    parallel_run(parallel, items, pieces, convolve, &job);
    scratch_give(job.pieces);
    return BNNCC_OK;
}
