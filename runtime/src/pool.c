/* Max-pooling of packed signs, 64 pixels of a row at a time.
 *
 * The maximum of signs is the or of their bits. The minimum is the same on complements: min(a, b) = -max(-a, -b). Taps
 * outside the input are 0 (-1) in an or, which leaves a maximum as it is. */
#include "checked.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"
#include "windows.h"

/* Taps of a window. The padding may be as wide, and a row is worked on with its padding: this bounds what a single
 * output can cost, as DOT_LIMIT does for convolutions. */
enum { POOL_LIMIT = 1 << 24 };

/* Output positions along an axis (0: height, 1: width), as ONNX MaxPool counts them: with ceil_mode also a last window
 * that the input only partly fills, unless it would begin beyond the input and the padding before it. */
static bnncc_status out_size(const bnncc_pool_params *params, int axis, int64_t size, int64_t *out,
                             bnncc_error *error) {
    const int64_t stride = params->strides[axis], before = params->pads[axis];
    const int64_t extent = (params->kernel_shape[axis] - 1) * params->dilations[axis] + 1;
    const int64_t room = size + before + params->pads[axis + 2] - extent;
    if (room < 0)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the kernel does not fit the padded input's %s",
                    axis == 0 ? "height" : "width");
    *out = room / stride + 1;
    if (params->ceil_mode && room % stride != 0 && *out * stride < size + before)
        *out += 1;
    return BNNCC_OK;
}

bnncc_status bnncc_pool_output_shape(const bnncc_pool_params *params, int64_t *out_height, int64_t *out_width,
                                     bnncc_error *error) {
    if (!params || !out_height || !out_width)
        return fail(error, BNNCC_INVALID_ARGUMENT, "params, out_height or out_width is NULL");
    if (check_size("channels", params->channels, 1, error) || check_size("height", params->height, 1, error) ||
        check_size("width", params->width, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    for (int axis = 0; axis < 2; axis++) {
        if (check_size("kernel_shape", params->kernel_shape[axis], 1, error) ||
            check_size("stride", params->strides[axis], 1, error) ||
            check_size("dilation", params->dilations[axis], 1, error) ||
            check_size("pad", params->pads[axis], 0, error) || check_size("pad", params->pads[axis + 2], 0, error))
            return BNNCC_INVALID_ARGUMENT;
        if (params->pads[axis] >= params->kernel_shape[axis] || params->pads[axis + 2] >= params->kernel_shape[axis])
            return fail(error, BNNCC_INVALID_ARGUMENT, "a pad of max-pooling is not smaller than the kernel");
    }
    if (params->kernel_shape[0] > POOL_LIMIT / params->kernel_shape[1])
        return fail(error, BNNCC_INVALID_ARGUMENT, "kernel_shape has more than %d taps", POOL_LIMIT);
    if (out_size(params, 0, params->height, out_height, error) || out_size(params, 1, params->width, out_width, error))
        return BNNCC_INVALID_ARGUMENT;
    return BNNCC_OK;
}

typedef struct pool_job {
    const bnncc_pool_params *params;
    const uint8_t *x, *x_end;
    uint8_t *bits;
    size_t width_words, out_height, out_width;
    uint64_t *scratch; /* [pieces][2 * width_words]: a row as wide as the input, and its taps combined */
} pool_job;

/* to[i] |= the bit of `from` at i + shift, for every bit position i; bits beyond either end are 0. `to` may be `from`
 * where the shift is positive: no word is read after it was written, but by its own. */
static void or_shifted(uint64_t *to, const uint64_t *from, size_t words, int64_t shift) {
    const size_t distance = (size_t)(shift < 0 ? -shift : shift), skip = distance / 64, bits = distance % 64;
    if (shift >= 0) {
        for (size_t w = 0; w + skip < words; w++) {
            to[w] |= from[w + skip] >> bits;
            if (bits && w + skip + 1 < words)
                to[w] |= from[w + skip + 1] << (64 - bits);
        }
    } else {
        for (size_t w = skip; w < words; w++) {
            to[w] |= from[w - skip] << bits;
            if (bits && w > skip)
                to[w] |= from[w - skip - 1] >> (64 - bits);
        }
    }
}

/* Bits first, first + stride, ...: `count` <= 64 of them; 0 beyond the row. */
static uint64_t pick_bits(const uint64_t *row, size_t words, size_t first, size_t stride, size_t count) {
    uint64_t picked = 0;
    if (stride == 1 && first % 64 == 0)
        picked = first / 64 < words ? row[first / 64] : 0;
    else if (stride == 2 && first % 128 == 0)
        for (size_t half = 0; half < 2; half++)
            picked |= first / 64 + half < words ? even_bits(row[first / 64 + half]) << 32 * half : 0;
    else
        for (size_t i = 0; i < count && (first + i * stride) / 64 < words; i++)
            picked |= (row[(first + i * stride) / 64] >> (first + i * stride) % 64 & 1) << i;
    return picked & low_bits(count);
}

/* Output rows [begin, end), counted over images, channels and rows. Each is made in three steps: the input rows that
 * the window's rows are, in one; that row, shifted for each of the window's columns, in one; every stride-th bit. The
 * last step counts from bit 0, so the second begins with the shift by the left padding. */
static void pool_rows(void *argument, size_t piece, size_t begin, size_t end) {
    const pool_job *job = argument;
    const bnncc_pool_params *params = job->params;
    const size_t width = (size_t)params->width, height = (size_t)params->height, row_bytes = sign_bytes(width);
    const size_t words = job->width_words, out_bytes = sign_bytes(job->out_width);
    uint64_t *row = job->scratch + piece * 2 * words, *combined = row + words;
    size_t plane = begin / job->out_height, out_row = begin % job->out_height;
    for (size_t out = begin; out < end; out++) {
        const size_t channel = params->direction_count == 1 ? 0 : plane % (size_t)params->channels;
        const uint64_t flip = params->direction[channel] > 0 ? 0 : ~UINT64_C(0);
        const uint8_t *input = job->x + plane * height * row_bytes;
        const int64_t top = (int64_t)out_row * params->strides[0] - params->pads[0];
        for (size_t w = 0; w < words; w++)
            row[w] = combined[w] = 0;
        int64_t first_row, end_row;
        taps_inside(top, params->dilations[0], params->kernel_shape[0], params->height, &first_row, &end_row);
        for (int64_t r = first_row; r < end_row; r++) {
            const int64_t y = top + r * params->dilations[0];
            for (size_t w = 0; w * 64 < width; w++) {
                const uint64_t word = load_word(input + (size_t)y * row_bytes + w * 8, smaller(row_bytes - w * 8, 8));
                row[w] |= (word ^ flip) & low_bits(width - w * 64);
            }
        }
        or_shifted(combined, row, words, -params->pads[1]);
        /* `combined` has taps [0, taps); shifted by as many it has the next ones: log2 shifts for all. */
        for (int64_t taps = 1, more; taps < params->kernel_shape[1]; taps += more) {
            more = params->kernel_shape[1] - taps < taps ? params->kernel_shape[1] - taps : taps;
            or_shifted(combined, combined, words, more * params->dilations[1]);
        }
        for (size_t x = 0; x < job->out_width; x += 64) {
            const size_t count = smaller(job->out_width - x, 64);
            const uint64_t bits =
                pick_bits(combined, words, x * (size_t)params->strides[1], (size_t)params->strides[1], count);
            store_word(job->bits + out * out_bytes + x / 8, (bits ^ flip) & low_bits(count), sign_bytes(count));
        }
        if (++out_row == job->out_height) {
            out_row = 0;
            plane++;
        }
    }
}

/* What an output row's window makes of its input rows, in one word. */
static uint64_t join_rows(const pool_job *job, const uint8_t *plane, int64_t top, uint64_t flip) {
    const bnncc_pool_params *params = job->params;
    const size_t row_bytes = sign_bytes((size_t)params->width);
    const uint64_t inside = low_bits((size_t)params->width);
    uint64_t joined = 0;
    for (int64_t r = 0; r < params->kernel_shape[0]; r++) {
        const int64_t y = top + r * params->dilations[0];
        if (y < 0 || y >= params->height)
            continue;
        const uint8_t *row = plane + (size_t)y * row_bytes;
        /* Eight bytes may be read where the tensor has them, whatever they are. */
        joined |= (load_word(row, job->x_end - row >= 8 ? 8 : row_bytes) ^ flip) & inside;
    }
    return joined;
}

/* The same where all of a window's rows are inside and the tensor has eight bytes from the last of them on. */
static inline uint64_t join_inner_rows(const uint8_t *row, size_t step, int64_t taps, uint64_t flip) {
    uint64_t joined = load_word(row, 8) ^ flip;
    for (int64_t r = 1; r < taps; r++)
        joined |= load_word(row + (size_t)r * step, 8) ^ flip;
    return joined;
}

/* As pool_rows, where a row and its padding are one word: each step is taken for many output rows, so that compilers
 * make vectors of them. */
static void pool_narrow_rows(void *argument, size_t piece, size_t begin, size_t end) {
    enum { MOST = 64 };
    const pool_job *job = argument;
    const bnncc_pool_params *params = job->params;
    const size_t plane_bytes = (size_t)params->height * sign_bytes((size_t)params->width);
    const size_t out_bytes = sign_bytes(job->out_width), channels = (size_t)params->channels;
    const uint64_t inside = low_bits(job->out_width), in_row = low_bits((size_t)params->width);
    const size_t row_bytes = sign_bytes((size_t)params->width), step = (size_t)params->dilations[0] * row_bytes;
    const size_t extent = (size_t)(params->kernel_shape[0] - 1) * step + 8;
    size_t plane = begin / job->out_height, out_row = begin % job->out_height;
    size_t channel = params->direction_count == 1 ? 0 : plane % channels;
    (void)piece;
    while (begin < end) {
        const size_t count = smaller(end - begin, MOST);
        uint64_t rows[MOST] = {0}, flips[MOST] = {0};
        for (size_t i = 0; i < count; i++) {
            flips[i] = params->direction[channel] > 0 ? 0 : ~UINT64_C(0);
            const uint8_t *from = job->x + plane * plane_bytes;
            const int64_t top = (int64_t)out_row * params->strides[0] - params->pads[0];
            const int64_t last = top + (params->kernel_shape[0] - 1) * params->dilations[0];
            if (top >= 0 && last < params->height && (size_t)(job->x_end - from) >= (size_t)top * row_bytes + extent)
                rows[i] =
                    in_row & join_inner_rows(from + (size_t)top * row_bytes, step, params->kernel_shape[0], flips[i]);
            else
                rows[i] = join_rows(job, from, top, flips[i]);
            rows[i] <<= params->pads[1];
            if (++out_row == job->out_height) {
                out_row = 0;
                plane++;
                channel = channel + 1 < params->direction_count ? channel + 1 : 0;
            }
        }
        for (int64_t taps = 1, more; taps < params->kernel_shape[1]; taps += more) {
            more = params->kernel_shape[1] - taps < taps ? params->kernel_shape[1] - taps : taps;
            const uint64_t distance = (uint64_t)(more * params->dilations[1]);
            for (size_t i = 0; distance < 64 && i < MOST; i++)
                rows[i] |= rows[i] >> distance;
        }
        if (params->strides[1] == 2)
            for (size_t i = 0; i < MOST; i++)
                rows[i] = even_bits(rows[i]);
        else if (params->strides[1] != 1)
            for (size_t i = 0; i < count; i++)
                rows[i] = pick_bits(rows + i, 1, 0, (size_t)params->strides[1], job->out_width);
        uint8_t *to = job->bits + begin * out_bytes;
        /* Eight bytes at once where this piece has them: those beyond the row are the next rows', which come later. */
        for (size_t i = 0; i < count; i++)
            store_word(to + i * out_bytes, (rows[i] ^ flips[i]) & inside, (count - i) * out_bytes >= 8 ? 8 : out_bytes);
        begin += count;
    }
}

bnncc_status bnncc_max_pool_signs(const bnncc_pool_params *params, const uint8_t *x, int64_t batch, uint8_t *bits,
                                  const bnncc_parallel *parallel, bnncc_error *error) {
    int64_t out_height = 0, out_width = 0;
    bool overflow = false;
    const bnncc_status status = bnncc_pool_output_shape(params, &out_height, &out_width, error);
    if (status)
        return status;
    if (check_size("batch", batch, 0, error))
        return BNNCC_INVALID_ARGUMENT;
    if (!params->direction || (params->direction_count != 1 && params->direction_count != (size_t)params->channels))
        return fail(error, BNNCC_INVALID_ARGUMENT, "direction has %zu values, not 1 or %zu",
                    params->direction ? params->direction_count : 0, (size_t)params->channels);
    if (check_directions(params->direction, params->direction_count, error))
        return BNNCC_INVALID_ARGUMENT;
    if (batch == 0)
        return BNNCC_OK;
    if (!x || !bits)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is NULL", x ? "bits" : "x");

    const size_t planes = times((size_t)batch, (size_t)params->channels, &overflow);
    times(times(planes, (size_t)params->height, &overflow), sign_bytes((size_t)params->width), &overflow);
    const size_t rows = times(planes, (size_t)out_height, &overflow);
    times(rows, sign_bytes((size_t)out_width), &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");
    pool_job job = {.params = params, .x = x, .bits = bits};
    job.x_end = x + planes * (size_t)params->height * sign_bytes((size_t)params->width);
    job.out_height = (size_t)out_height;
    job.out_width = (size_t)out_width;
    /* The positions of the windows' first columns, counted from the padding's edge, may end beyond the input. */
    job.width_words = sign_words((size_t)(params->width + params->pads[1]));
    if (job.width_words == 1 && out_width <= 64 && params->kernel_shape[0] <= 16) {
        parallel_run(parallel, rows, parallel_pieces(parallel, rows, 16), pool_narrow_rows, &job);
        return BNNCC_OK;
    }
    const size_t taps = smaller((size_t)params->kernel_shape[0], (size_t)params->height);
    const size_t row_cost = job.width_words * (taps + 4) * 4;
    const size_t pieces = parallel_pieces(parallel, rows, row_cost);
    job.scratch = scratch_take(pieces * 2 * job.width_words, sizeof *job.scratch);
    if (!job.scratch)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory to pool");
    parallel_run(parallel, rows, pieces, pool_rows, &job);
    scratch_give(job.scratch);
    return BNNCC_OK;
}
