/* A run of the channel kernel: bands of output rows, each by itself, on the caller's threads.
 *
 * A band of one group of one image takes five steps: its inputs become pixel-major words; the reference is found; every
 * input pixel gets a list of the channels where it differs; every tap's planes that are opposite to the reference are
 * counted; and every output pixel counts the planes on the lists of its taps. Bits are then put back into rows. Bands
 * write to bytes of their own, so their order and threads cannot matter. */
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
    const float *residual;
    float *y;
    uint8_t *bits;
    size_t height, out_height;
    size_t band_rows, bands;        /* of an image */
    size_t tile_rows, tile_columns; /* output pixels that are expanded to floats at a time, DOT_TILE at most */
    size_t words;                   /* of an input pixel's channels in a group */
    size_t row_pitch;               /* positions of an input row; those beyond the width are not used */
    size_t list_pitch;
    size_t vectors_bytes; /* of one count: 1 + counters planes */
    size_t chunk_taps;    /* whose planes are met by all pixels before the next ones are */
    /* Where a piece's parts are in its memory. */
    size_t pixels, lists, list_sizes, offsets, window_list, tap_sums, starts, signs, windows, counts, add, inside;
    size_t piece_bytes;
    uint8_t *pieces;
} channels_job;

/* What a band is worked at with. */
typedef struct channels_band {
    const channels_job *job;
    size_t image, group, row, rows;
    size_t first_input, input_rows; /* inside the image */
    uint64_t *pixels;               /* [position][words] */
    uint64_t *reference;            /* [words], after the pixels */
    uint32_t *offsets;              /* [channels]: of the plane opposite to the reference, within a tap */
    uint32_t *lists;                /* [1 + positions][list_pitch]; the first one is the padding's */
    uint32_t *list_sizes;           /* [1 + positions] */
    size_t longest;                 /* of the lists */
    uint32_t *window_list;
    uint8_t *tap_sums; /* [block][tap] counts */
    uint8_t *starts;   /* [column class] counts */
    uint8_t *signs;    /* [block][output position] vectors; rows of whole bytes of positions */
    /* Of every output pixel of the band: */
    window *windows;
    uint8_t *counts;       /* of the block at hand */
    int32_t *add, *inside; /* see channels_expansion */
} channels_band;

/* ---- Preparation ------------------------------------------------------------------------------------------------- */

/* The channels that most pixels, or most of 63, have +1 in. Vertical counters of six planes begin where their highest
 * plane comes to tell. */
static void find_reference(const channels_band *band) {
    const channels_job *job = band->job;
    const size_t width = (size_t)job->conv->plan.params.width, pixels = band->input_rows * width, words = job->words;
    const size_t step = divide_up(pixels, 63), count = step ? divide_up(pixels, step) : 0;
    for (size_t first = 0; first < words; first += 8) {
        const size_t some = smaller(words - first, 8);
        uint64_t planes[6][8], carry[8] = {0};
        for (size_t k = 0; k < 6; k++)
            for (size_t w = 0; w < 8; w++)
                planes[k][w] = -(uint64_t)((31 - count / 2) >> k & 1);
        size_t row = 0, column = 0;
        for (size_t i = 0; i < count; i++) {
            memcpy(carry, band->pixels + (row * job->row_pitch + column) * words + first, some * sizeof *carry);
            for (size_t k = 0; k < 6; k++)
                for (size_t w = 0; w < 8; w++) {
                    const uint64_t both = planes[k][w] & carry[w];
                    planes[k][w] ^= carry[w];
                    carry[w] = both;
                }
            for (column += step; column >= width; column -= width)
                row++;
        }
        memcpy(band->reference + first, planes[5], some * sizeof *carry);
    }
}

static void list_differing(channels_band *band, const uint64_t *pixel, uint64_t invert, size_t number) {
    const channels_job *job = band->job;
    const size_t channels = job->conv->plan.group_channels;
    uint64_t *differing = band->reference + job->words;
    for (size_t word = 0; word < job->words; word++)
        differing[word] = ((pixel ? pixel[word] : 0) ^ band->reference[word] ^ invert) & low_bits(channels - 64 * word);
    uint32_t *list = band->lists + number * job->list_pitch;
    const size_t size = job->conv->steps->list(differing, band->offsets, channels, list);
    for (size_t i = 0; i < LIST_STEP; i++)
        list[size + i] = 0;
    band->list_sizes[number] = (uint32_t)size;
    band->longest = size > band->longest ? size : band->longest;
}

static void make_lists(channels_band *band) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    for (size_t channel = 0; channel < plan->group_channels; channel++) {
        const size_t positive = band->reference[channel / 64] >> channel % 64 & 1;
        band->offsets[channel] = (uint32_t)((1 + channel + positive * plan->group_channels) * plan->lane_bytes);
    }
    for (size_t i = 0; i < LIST_STEP; i++)
        band->offsets[plan->group_channels + i] = 0;
    band->longest = 0;
    memset(band->lists, 0, LIST_STEP * sizeof *band->lists);
    band->list_sizes[0] = 0; /* for taps in padding of zeros */
    if (plan->params.pad_value)
        list_differing(band, NULL, plan->params.pad_value > 0 ? ~UINT64_C(0) : 0, 0);
    for (size_t row = 0; row < band->input_rows; row++)
        for (size_t column = 0; column < (size_t)plan->params.width; column++) {
            const size_t position = row * job->row_pitch + column;
            list_differing(band, band->pixels + position * job->words, 0, 1 + position);
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
            const channels_count all = {
                .weights =
                    conv->weights + (band->group * plan->blocks + block) * plan->block_bytes + tap * plan->tap_bytes,
                .list = band->offsets,
                .units = divide_up(plan->group_channels, 16),
                .counters = plan->counters,
                .start = zeros,
                .to = to - lane_bytes, /* twice the count, less its lowest plane */
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
    if (band->input_rows)
        planes_to_pixels(job->x + channel * plane_bytes + band->first_input * row_bytes, plane_bytes, job->x_end,
                         plan->group_channels, band->input_rows * job->row_pitch, band->pixels);
    find_reference(band);
    make_lists(band);
    sum_taps(band);
}

/* ---- Counting ---------------------------------------------------------------------------------------------------- */

/* The planes of some of a window's taps, [begin, end), filled up to units of 16; *count is how many they are without
 * that. */
static const uint32_t *list_taps(const channels_band *band, const window *window, size_t begin, size_t end,
                                 size_t *count) {
    const channels_job *job = band->job;
    const channels_plan *plan = &job->conv->plan;
    const bnncc_conv_params *params = &plan->params;
    uint32_t *to = band->window_list;
    for (size_t tap = begin; tap < end; tap++) {
        const int64_t r = job->conv->tap_places[tap].row, c = job->conv->tap_places[tap].column;
        size_t list = 0;
        if (r >= window->first_row && r < window->end_row && c >= window->first_column && c < window->end_column)
            list = 1 + (size_t)(window->row + r * params->dilations[0] - (int64_t)band->first_input) * job->row_pitch +
                   (size_t)(window->column + c * params->dilations[1]);
        const uint32_t *from = band->lists + list * job->list_pitch;
        if (end - begin == 1) { /* their offsets are those of the tap */
            *count = band->list_sizes[list];
            return from;
        }
        /* As much as the longest list takes: the branches of equal loops are foreseen. */
        job->conv->steps->append(from, band->longest, (uint32_t)((tap - begin) * plan->tap_bytes), to);
        to += band->list_sizes[list];
    }
    for (size_t i = 0; i < LIST_STEP; i++)
        to[i] = 0;
    *count = (size_t)(to - band->window_list);
    return band->window_list;
}

/* One block's counts of the band's windows: the planes of a chunk of taps, which stay in the cache, meet all windows.
 */
static void count_block(const channels_band *band, size_t block) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const bool padding = plan->params.pad_value != 0;
    const size_t out_pitch = 8 * sign_bytes(plan->out_width), positions = job->band_rows * out_pitch;
    const uint8_t *weights = conv->weights + (band->group * plan->blocks + block) * plan->block_bytes;
    uint8_t *signs = band->signs + block * positions * plan->lane_bytes;
    int64_t first_row = -1, end_row = -1;
    for (size_t tap = 0, end_tap; tap < plan->taps; tap = end_tap, weights += job->chunk_taps * plan->tap_bytes) {
        end_tap = smaller(tap + job->chunk_taps, plan->taps);
        const bool first = tap == 0, last = end_tap == plan->taps;
        size_t row = 0, column = 0;
        for (size_t p = 0; row < band->rows; p++) {
            const window *window = band->windows + p;
            uint8_t *to = band->counts + p * job->vectors_bytes;
            channels_count count = {.weights = weights, .counters = plan->counters, .start = to};
            if (first) {
                const int64_t begin = padding ? 0 : window->first_row;
                const int64_t end = padding ? plan->params.kernel_shape[0] : window->end_row;
                if (begin != first_row || end != end_row)
                    find_starts(band, block, begin, end);
                first_row = begin;
                end_row = end;
                const uint32_t class = conv->column_class[column];
                const int64_t taps = (end - begin) * (conv->columns[class].end - conv->columns[class].begin);
                band->inside[p] = (int32_t)(taps * (int64_t)plan->group_channels);
                band->add[p] = band->inside[p] + 1;
                count.start = band->starts + class * job->vectors_bytes;
            }
            size_t listed = 0;
            count.list = list_taps(band, window, tap, end_tap, &listed);
            count.units = divide_up(listed, 16);
            band->add[p] -= (int32_t)listed;
            if (last && !job->y) {
                count.add = band->add[p];
                count.signs = signs + (row * out_pitch + column) * plan->lane_bytes;
            } else {
                count.to = to;
            }
            conv->steps->count(&count);
            if (++column == plan->out_width) {
                column = 0;
                row++;
            }
        }
    }
}

/* ---- Results ----------------------------------------------------------------------------------------------------- */

/* The floats of one block's filters, and their bits if they are asked for too, tile by tile. */
static void expand_block(const channels_band *band, size_t block) {
    const channels_job *job = band->job;
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const size_t first_filter = block * 8 * plan->lane_bytes;
    const size_t filters = smaller(plan->group_filters - first_filter, 8 * plan->lane_bytes);
    const epilogue_tensors to = {.residual = job->residual,
                                 .y = job->y,
                                 .bits = job->bits,
                                 .channels = (size_t)plan->params.out_channels,
                                 .height = job->out_height,
                                 .width = plan->out_width};
    _Alignas(64) int32_t dots[64][DOT_TILE];
    for (size_t row = 0, rows; row < band->rows; row += rows) {
        rows = smaller(job->tile_rows, band->rows - row);
        for (size_t column = 0, columns; column < plan->out_width; column += columns) {
            columns = smaller(job->tile_columns, plan->out_width - column);
            const size_t pixel = row * plan->out_width + column;
            for (size_t filter = 0; filter < filters; filter += 64) {
                const channels_expansion expansion = {
                    .from = band->counts + pixel * job->vectors_bytes + filter / 8,
                    .plane_bytes = plan->lane_bytes,
                    .pixel_bytes = job->vectors_bytes,
                    .planes = 1 + (size_t)plan->counters,
                    .pixels = rows * columns,
                    .add = band->add + pixel,
                    .inside = band->inside + pixel,
                    .dots = dots,
                };
                conv->steps->expand(&expansion);
                const epilogue_tile tile = {band->image, band->row + row, rows, column, columns};
                epilogue_store_tile(conv->epilogue, &to, &tile,
                                    band->group * plan->group_filters + first_filter + filter,
                                    smaller(filters - filter, 64), dots[0]);
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
    for (size_t first = 0; first < plan->group_filters; first += 64) {
        const size_t block = first / (8 * plan->lane_bytes), lane = first % (8 * plan->lane_bytes);
        const size_t filters = smaller(plan->group_filters - first, 64);
        const uint8_t *from = band->signs + block * block_positions * plan->lane_bytes + lane / 8;
        for (size_t byte = 0; byte < bytes; byte += 8) {
            uint64_t rows[64] = {0};
            const size_t run = smaller(bytes - byte, 8);
            for (size_t i = 0; i < 8 * run; i++)
                rows[i] = load_word(from + (byte * 8 + i) * plan->lane_bytes, 8);
            transpose_64x64(rows, filters);
            for (size_t f = 0; f < filters; f++)
                store_word(job->bits + ((first_channel + first + f) * job->out_height + band->row) * row_bytes + byte,
                           rows[f], run);
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
        .offsets = (uint32_t *)(void *)(memory + job->offsets),
        .lists = (uint32_t *)(void *)(memory + job->lists),
        .list_sizes = (uint32_t *)(void *)(memory + job->list_sizes),
        .window_list = (uint32_t *)(void *)(memory + job->window_list),
        .tap_sums = memory + job->tap_sums,
        .starts = memory + job->starts,
        .signs = memory + job->signs,
        .counts = memory + job->counts,
        .windows = (window *)(void *)(memory + job->windows),
        .add = (int32_t *)(void *)(memory + job->add),
        .inside = (int32_t *)(void *)(memory + job->inside),
    };
    for (size_t item = begin; item < end; item++) {
        band.group = item % groups;
        band.image = item / groups / job->bands;
        band.row = item / groups % job->bands * job->band_rows;
        band.rows = smaller(job->band_rows, job->out_height - band.row);
        prepare(&band);
        windows_locate(&plan->params, (int64_t)job->height, band.row, band.rows, 0, plan->out_width, band.windows);
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

/* Appends a part to a block of memory, on a cache line; returns where it begins. */
static size_t reserve(size_t *total, size_t count, size_t size, bool *overflow) {
    const size_t begin = *total;
    *total = plus(begin, times(plus(times(count, size, overflow), 63, overflow) / 64, 64, overflow), overflow);
    return begin;
}

static void lay_out(channels_job *job, bool *overflow) {
    const channels_conv *conv = job->conv;
    const channels_plan *plan = &conv->plan;
    const bnncc_conv_params *params = &plan->params;
    const size_t rows =
        plus(times(job->band_rows - 1, (size_t)params->strides[0], overflow),
             times((size_t)params->kernel_shape[0] - 1, (size_t)params->dilations[0], overflow) + 1, overflow);
    const size_t input_positions = times(smaller(rows, job->height), job->row_pitch, overflow);
    const size_t out_positions = times(job->band_rows, 8 * sign_bytes(plan->out_width), overflow);
    size_t bytes = 0;
    job->pixels = reserve(&bytes, times(plus(input_positions, 2, overflow), job->words, overflow), 8, overflow);
    job->offsets = reserve(&bytes, plan->group_channels + LIST_STEP, sizeof(uint32_t), overflow);
    job->list_sizes = reserve(&bytes, input_positions + 1, sizeof(uint32_t), overflow);
    job->lists = reserve(&bytes, times(input_positions + 1, job->list_pitch, overflow), sizeof(uint32_t), overflow);
    job->window_list = reserve(&bytes, plan->length + plan->group_channels + 2 * LIST_STEP, sizeof(uint32_t), overflow);
    job->tap_sums = plan->lane_bytes + reserve(&bytes, 1 + plan->blocks * plan->taps, job->vectors_bytes, overflow);
    job->starts = reserve(&bytes, conv->column_classes, job->vectors_bytes, overflow);
    job->signs = reserve(&bytes, job->y ? 0 : times(out_positions, plan->blocks, overflow), plan->lane_bytes, overflow);
    const size_t pixels = times(job->band_rows, plan->out_width, overflow);
    const bool counts_kept = job->y || job->chunk_taps < plan->taps;
    job->windows = reserve(&bytes, pixels, sizeof(window), overflow);
    job->counts = reserve(&bytes, counts_kept ? pixels : 1, job->vectors_bytes, overflow);
    job->add = reserve(&bytes, pixels, sizeof(int32_t), overflow);
    job->inside = reserve(&bytes, pixels, sizeof(int32_t), overflow);
    job->piece_bytes = bytes;
}

bnncc_status channels_conv_run(const channels_conv *conv, const uint8_t *x, const float *residual, size_t batch,
                               size_t height, size_t out_height, float *y, uint8_t *bits,
                               const bnncc_parallel *parallel, bnncc_error *error) {
    const size_t chunk_bytes = (size_t)64 << 10, band_bytes = (size_t)512 << 10, scratch_bytes = (size_t)64 << 20;
    const channels_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, row_bytes = sign_bytes((size_t)plan->params.width);
    bool overflow = false;
    channels_job job = {
        .conv = conv,
        .x = x,
        .x_end = x + batch * (size_t)plan->params.in_channels * height * row_bytes,
        .residual = residual,
        .y = y,
        .bits = bits,
        .height = height,
        .out_height = out_height,
        .words = sign_words(plan->group_channels),
        .row_pitch = 8 * row_bytes,
        .list_pitch = divide_up(plan->group_channels, LIST_STEP) * LIST_STEP + LIST_STEP,
        .vectors_bytes = (1 + (size_t)plan->counters) * plan->lane_bytes,
    };
    job.chunk_taps = chunk_bytes / (plan->group_channels * plan->lane_bytes) + 1;
    /* Without threads a band is an image, unless its lists would leave the cache; what bands prepare overlaps. */
    const size_t rows = times(times(batch, groups, &overflow), out_height, &overflow);
    const size_t row_cost = times(plan->out_width, plan->blocks * (plan->length / 4 + 64), &overflow);
    size_t pieces = parallel_pieces(parallel, rows, row_cost);
    const size_t bands = overflow ? 1 : smaller(divide_up(pieces, batch * groups), out_height);
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
