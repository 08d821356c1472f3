/* Binary linear layer: every sample is one window, all features of it. */
#include "checked.h"
#include "dot/dot.h"
#include "epilogue.h"
#include "parallel.h"
#include "scratch.h"
#include "signs.h"

#include <stdio.h>
#include <stdlib.h>

struct bnncc_linear {
    bnncc_linear_params params;
    char name[40];
    const dot_kernel *kernel;
    epilogue epilogue;
    size_t length; /* K = rows * width */
    size_t words;  /* of a sample or a filter */
    uint64_t *weights;
};

static bool place_weights(bnncc_linear *linear, const uint8_t *weight) {
    const size_t features = (size_t)linear->params.out_features, row_bytes = sign_bytes(linear->length);
    bool overflow = false;
    const size_t count = dot_weight_count(linear->kernel, features, linear->words, &overflow);
    uint64_t *filter = allocate(linear->words, sizeof *filter);
    linear->weights = overflow ? NULL : allocate(count, sizeof *linear->weights);
    if (!filter || !linear->weights) {
        free(filter);
        return false;
    }
    memset(linear->weights, 0, count * sizeof *linear->weights);
    for (size_t f = 0; f < features; f++, weight += row_bytes) {
        for (size_t w = 0; w < linear->words; w++)
            filter[w] = load_word(weight + w * 8, smaller(row_bytes - w * 8, 8));
        filter[linear->words - 1] &= low_bits(linear->length - (linear->words - 1) * 64);
        dot_place_filter(linear->kernel, linear->weights, linear->words, f, filter);
    }
    free(filter);
    return true;
}

bnncc_status bnncc_linear_create(const bnncc_linear_params *params, const uint8_t *weight, size_t weight_size,
                                 const bnncc_epilogue *epilogue, bnncc_isa isa, bnncc_linear **result,
                                 bnncc_error *error) {
    bool overflow = false;
    if (!params || !weight || !result)
        return fail(error, BNNCC_INVALID_ARGUMENT, "params, weight or linear is NULL");
    if (check_size("out_features", params->out_features, 1, error) || check_size("rows", params->rows, 1, error) ||
        check_size("width", params->width, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    if (params->rows > DOT_LIMIT / params->width)
        return fail(error, BNNCC_INVALID_ARGUMENT, "a filter has more than 2^24 weights");
    if (epilogue && epilogue->steps)
        return fail(error, BNNCC_INVALID_ARGUMENT, "a linear layer's epilogue has no steps");
    const size_t length = (size_t)(params->rows * params->width);
    const size_t expected = times((size_t)params->out_features, sign_bytes(length), &overflow);
    if (overflow || weight_size != expected)
        return fail(error, BNNCC_INVALID_ARGUMENT, "weight has %zu bytes, not out_features * ceil(%zu / 8)",
                    weight_size, length);
    bnncc_status status = bnncc_isa_resolve(isa, &isa, error);
    if (status)
        return status;
    bnncc_linear *linear = allocate(1, sizeof *linear);
    if (!linear)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a linear layer");
    *linear =
        (bnncc_linear){.params = *params, .kernel = dot_kernel_for(isa), .length = length, .words = sign_words(length)};
    snprintf(linear->name, sizeof linear->name, "dot/%s", bnncc_isa_name(isa));
    status = epilogue_create(&linear->epilogue, epilogue, (size_t)params->out_features, isa, error);
    if (!status && !place_weights(linear, weight))
        status = fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a linear layer's weights");
    if (status) {
        bnncc_linear_destroy(linear);
        return status;
    }
    *result = linear;
    return BNNCC_OK;
}

void bnncc_linear_destroy(bnncc_linear *linear) {
    if (!linear)
        return;
    epilogue_destroy(&linear->epilogue);
    free(linear->weights);
    free(linear);
}

const char *bnncc_linear_kernel(const bnncc_linear *linear) { return linear->name; }

typedef struct linear_job {
    const bnncc_linear *linear;
    const uint8_t *x;
    float *y;
    uint8_t *bits;
    size_t samples;
    size_t tile_samples;
    size_t chunks;     /* times DOT_TILE features */
    uint64_t *windows; /* [pieces][tile_samples][words] */
} linear_job;

/* The features of `count` samples without the gaps that their rows of whole bytes leave. */
static void gather(const bnncc_linear *linear, const uint8_t *x, size_t count, uint64_t *windows) {
    const size_t width = (size_t)linear->params.width, rows = (size_t)linear->params.rows;
    const size_t row_bytes = sign_bytes(width);
    for (size_t sample = 0; sample < count; sample++, windows += linear->words) {
        bit_writer writer = {windows, 0, 0};
        for (size_t row = 0; row < rows; row++, x += row_bytes)
            for (size_t column = 0; column < width; column += 64) {
                const size_t bits = smaller(width - column, 64);
                const uint64_t word = load_word(x + column / 8, sign_bytes(bits));
                write_bits(&writer, word & low_bits(bits), bits);
            }
        finish_bits(&writer);
    }
}

/* The epilogue of a tile. Results come feature by feature; a row of the output is a sample, so both are turned. */
static void store_tile(const linear_job *job, size_t sample, size_t samples, size_t feature, size_t features,
                       const int32_t *dots) {
    const epilogue *epilogue = &job->linear->epilogue;
    const size_t out_features = (size_t)job->linear->params.out_features;
    if (job->y)
        for (size_t f = 0; f < features; f++) {
            float column[DOT_TILE];
            epilogue_floats(epilogue, feature + f, dots + f * DOT_TILE, samples, column);
            for (size_t i = 0; i < samples; i++)
                job->y[(sample + i) * out_features + feature + f] = column[i];
        }
    if (job->bits) {
        uint64_t signs[DOT_TILE] = {0};
        for (size_t f = 0; f < features; f++)
            signs[f] = epilogue_signs(epilogue, feature + f, dots + f * DOT_TILE, samples);
        transpose_64x64(signs, samples);
        for (size_t i = 0; i < samples; i++)
            store_word(job->bits + (sample + i) * sign_bytes(out_features) + feature / 8, signs[i],
                       sign_bytes(features));
    }
}

/* Items [begin, end); an item is a chunk of features of a tile of samples, the chunks counting fastest. */
static void multiply(void *argument, size_t piece, size_t begin, size_t end) {
    const linear_job *job = argument;
    const bnncc_linear *linear = job->linear;
    const size_t features = (size_t)linear->params.out_features;
    const size_t sample_bytes = (size_t)linear->params.rows * sign_bytes((size_t)linear->params.width);
    uint64_t *windows = job->windows + piece * job->tile_samples * linear->words;
    _Alignas(64) int32_t dots[DOT_TILE * DOT_TILE];
    for (size_t item = begin; item < end; item++) {
        const size_t feature = item % job->chunks * DOT_TILE, sample = item / job->chunks * job->tile_samples;
        const size_t samples = smaller(job->samples - sample, job->tile_samples);
        const size_t now = smaller(features - feature, DOT_TILE);
        if (item == begin || feature == 0)
            gather(linear, job->x + sample * sample_bytes, samples, windows);
        linear->kernel->run(windows, samples, dot_tile_weights(linear->kernel, linear->weights, linear->words, feature),
                            now, linear->words, (int32_t)linear->length, dots);
        store_tile(job, sample, samples, feature, now, dots);
    }
}

bnncc_status bnncc_linear_run(const bnncc_linear *linear, const uint8_t *x, int64_t batch, float *y, uint8_t *bits,
                              const bnncc_parallel *parallel, bnncc_error *error) {
    const size_t scratch_bytes = (size_t)64 << 20, tile_bytes = (size_t)1 << 20;
    bool overflow = false;
    if (!linear)
        return fail(error, BNNCC_INVALID_ARGUMENT, "linear is NULL");
    bnncc_status status = check_size("batch", batch, 0, error);
    if (!status && batch > 0)
        status = epilogue_check_tensors(&linear->epilogue, NULL, y, bits, error);
    if (status || batch == 0)
        return status;
    if (!x)
        return fail(error, BNNCC_INVALID_ARGUMENT, "x is NULL");

    linear_job job = {.linear = linear, .x = x, .y = y, .bits = bits, .samples = (size_t)batch};
    const size_t features = (size_t)linear->params.out_features;
    const size_t sample_bytes = (size_t)linear->params.rows * sign_bytes((size_t)linear->params.width);
    times(sample_bytes, job.samples, &overflow);
    times(times(features, job.samples, &overflow), sizeof *y, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the size of the input or output overflows");
    const size_t word_bytes = linear->words * sizeof *job.windows;
    job.tile_samples = smaller(job.samples, smaller(tile_bytes / word_bytes + 1, DOT_TILE));
    job.chunks = divide_up(features, DOT_TILE);
    const size_t items = divide_up(job.samples, job.tile_samples) * job.chunks;
    const size_t item_cost = job.tile_samples * linear->words * smaller(features, DOT_TILE) / linear->kernel->lanes;
    const size_t most_pieces = scratch_bytes / (job.tile_samples * word_bytes) + 1;
    const size_t pieces = smaller(parallel_pieces(parallel, items, item_cost), most_pieces);
    job.windows = scratch_take(pieces * job.tile_samples * linear->words, sizeof *job.windows);
    if (!job.windows)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory to run a linear layer");
    parallel_run(parallel, items, pieces, multiply, &job);
    scratch_give(job.windows);
    return BNNCC_OK;
}
