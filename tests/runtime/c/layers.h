/* Random convolutions with what the portable dot kernel makes of them, and the comparison of another kernel's outputs.
 */
#ifndef BNNCC_TESTS_LAYERS_H
#define BNNCC_TESTS_LAYERS_H

#include "orders.h"
#include "random_steps.h"
#include "scratch.h"

#include <string.h>

typedef struct layer {
    bnncc_conv_params params;
    int64_t height, batch, length;
    uint8_t *weight, *x;
    size_t weight_size, x_size;
    float *scale, *shift;
    int32_t *threshold;
    random_steps *steps; /* NULL for none */
    bnncc_epilogue epilogue;
    float *residual, *window_sums; /* NULL where no step adds them */
    /* What the portable dot kernel makes of it; NULL where the epilogue has no such output. */
    int64_t out_height, out_width;
    float *y;
    uint8_t *bits;
    size_t y_size, bits_size; /* in bytes */
} layer;

static inline void draw_shape(random_state *random, int64_t most_filters, layer *made) {
    const int64_t sizes[] = {1, 5, 7, 8, 14, 15, 28, 33, 56, 60};
    const int64_t full[] = {15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129}; /* words and units, nearly */
    bnncc_conv_params p = {.pad_value = random_between(random, -1, 1)};
    p.group = random_one_in(random, 3) ? random_between(random, 2, 3) : 1;
    const int64_t channels = random_between(random, 1,
                                            random_one_in(random, 50)  ? 700
                                            : random_one_in(random, 4) ? 90
                                                                       : 12);
    p.in_channels = p.group * (random_one_in(random, 10) ? full[random_between(random, 0, 11)] : channels);
    p.out_channels = p.group * random_between(random, 1, random_one_in(random, 3) ? most_filters : 12);
    for (int i = 0; i < 2; i++) {
        p.kernel_shape[i] = random_between(random, 1, random_one_in(random, 3) ? 7 : 3);
        p.strides[i] = random_one_in(random, 3) ? random_between(random, 2, 3) : 1;
        p.dilations[i] = random_one_in(random, 4) ? random_between(random, 2, 3) : 1;
        p.pads[i] = random_one_in(random, 2) ? random_between(random, 0, random_one_in(random, 6) ? 12 : 3) : 0;
        p.pads[i + 2] = random_one_in(random, 2) ? p.pads[i] : random_between(random, 0, 3);
    }
    p.width = random_one_in(random, 8) ? random_between(random, 60, 200) : sizes[random_between(random, 0, 9)];
    made->height = random_one_in(random, 2) ? sizes[random_between(random, 0, 8)] : p.width > 60 ? 9 : p.width;
    made->batch = random_one_in(random, 3) ? random_between(random, 2, 9) : 1;
    if (random_one_in(random, 40)) { /* filters about as long as some number of counters holds, on a small map */
        const int64_t lengths[] = {255, 511, 1023, 2047, 4095, 8187, 16383, 32767, 65530};
        p.group = p.kernel_shape[0] = p.kernel_shape[1] = made->batch = 1;
        p.in_channels = lengths[random_between(random, 0, 8)] + random_between(random, -3, 5);
        p.out_channels = random_between(random, 1, 5);
        p.width = made->height = random_between(random, 3, 5);
        for (int i = 0; i < 4; i++)
            p.pads[i] = random_between(random, 0, 1);
    }
    made->length = p.in_channels / p.group * p.kernel_shape[0] * p.kernel_shape[1];
    made->params = p;
}

/* Random bytes, or the same in all: sums that are as large as they can be. */
static inline uint8_t *draw_signs(random_state *random, size_t size) {
    uint8_t *signs = random_bytes(random, size);
    if (random_one_in(random, 8))
        memset(signs, random_one_in(random, 2) ? 0xff : 0, size);
    return signs;
}

/* most_filters: of a group. */
static inline layer draw_layer(random_state *random, int64_t most_filters) {
    layer made = {.height = 1};
    draw_shape(random, most_filters, &made);
    const size_t channels = (size_t)made.params.out_channels;
    made.weight_size = channels * packed_bytes(made.length);
    made.weight = draw_signs(random, made.weight_size); /* unused bits of rows included */
    made.x_size = (size_t)(made.batch * made.params.in_channels * made.height) * packed_bytes(made.params.width);
    made.x = draw_signs(random, made.x_size);
    made.scale = must_allocate(channels * sizeof(float));
    made.shift = must_allocate(channels * sizeof(float));
    made.threshold = must_allocate(channels * sizeof(int32_t));
    for (size_t i = 0; i < channels; i++) {
        made.scale[i] = random_float(random) * 3;
        made.shift[i] = random_float(random) * 30;
        made.threshold[i] = (int32_t)random_between(random, -made.length / 3 - 2, made.length / 3 + 2);
        if (random_one_in(random, 10))
            made.threshold[i] = random_one_in(random, 2) ? INT32_MIN : INT32_MAX;
        else if (random_one_in(random, 10)) /* about the least and the largest sum */
            made.threshold[i] =
                (int32_t)((random_one_in(random, 2) ? 1 : -1) * made.length + random_between(random, -2, 2));
    }
    const int64_t outputs = random_between(random, 1, 3); /* bit 0: floats; bit 1: bits */
    if (outputs & 1) {
        made.epilogue.scale = made.scale;
        made.epilogue.shift = made.shift;
        made.epilogue.scale_count = made.epilogue.shift_count = channels;
    }
    const bool bits_of_dot = random_one_in(random, 3);
    if (outputs & 1 && random_one_in(random, 2)) {
        made.steps = must_allocate(sizeof *made.steps);
        draw_steps(random, made.params.out_channels, outputs & 2 && !bits_of_dot, made.steps);
        made.epilogue.steps = &made.steps->steps;
    }
    if (outputs & 2 && (bits_of_dot || !made.steps)) {
        made.epilogue.threshold = made.threshold;
        made.epilogue.threshold_count = channels;
    }
    return made;
}

static inline void free_layer(layer *made) {
    free(made->weight);
    free(made->x);
    free(made->scale);
    free(made->shift);
    free(made->threshold);
    if (made->steps)
        free_steps(made->steps);
    free(made->steps);
    free(made->residual);
    free(made->window_sums);
    free(made->y);
    free(made->bits);
}

/* The sums of the windows: what filters of ones give on the portable dot kernel. */
static inline float *sum_windows(tally *tally, const layer *made) {
    bnncc_conv_params params = made->params;
    params.out_channels = params.group;
    const float one = 1, zero = 0;
    const bnncc_epilogue epilogue = {.scale = &one, .scale_count = 1, .shift = &zero, .shift_count = 1};
    const bnncc_conv_hints hints = {.kernel = "dot"};
    const size_t weight_size = (size_t)params.group * packed_bytes(made->length);
    uint8_t *ones = must_allocate(weight_size);
    memset(ones, 0xff, weight_size);
    float *sums =
        must_allocate((size_t)(made->batch * params.group * made->out_height * made->out_width) * sizeof *sums);
    bnncc_error error = {""};
    bnncc_conv *conv = NULL;
    CHECK(tally,
          !bnncc_conv_create(&params, ones, weight_size, &epilogue, &hints, BNNCC_ISA_PORTABLE, &conv, &error) &&
              !bnncc_conv_run(conv, made->x, NULL, made->batch, made->height, sums, NULL, NULL, &error),
          "%s", error.message);
    bnncc_conv_destroy(conv);
    free(ones);
    return sums;
}

/* Runs a layer on the portable dot kernel, for the others to be compared with; false where it has no output at all. */
static inline bool run_reference(tally *tally, random_state *random, layer *made) {
    bnncc_error error = {""};
    bnncc_conv *dot = NULL;
    const bnncc_conv_hints hints = {.kernel = "dot"};
    const bool fits = !bnncc_conv_create(&made->params, made->weight, made->weight_size, &made->epilogue, &hints,
                                         BNNCC_ISA_PORTABLE, &dot, &error) &&
                      !bnncc_conv_output_shape(dot, made->height, &made->out_height, &made->out_width, &error);
    if (fits) {
        const size_t rows = (size_t)(made->batch * made->params.out_channels * made->out_height);
        made->y_size = rows * (size_t)made->out_width * sizeof(float);
        made->bits_size = rows * packed_bytes(made->out_width);
        made->y = made->epilogue.scale ? must_allocate(made->y_size) : NULL;
        const bool gives_bits = made->epilogue.threshold || (made->steps && made->steps->threshold);
        made->bits = gives_bits ? must_allocate(made->bits_size) : NULL;
        if (adds_residual(made->epilogue.steps))
            made->residual = random_residual(random, rows * (size_t)made->out_width);
        if (has_step(made->epilogue.steps, BNNCC_STEP_WINDOW_SUM))
            made->window_sums = sum_windows(tally, made);
        CHECK(
            tally,
            !bnncc_conv_run(dot, made->x, made->residual, made->batch, made->height, made->y, made->bits, NULL, &error),
            "%s", error.message);
    }
    bnncc_conv_destroy(dot);
    return fits;
}

/* Leaves memory for the next run that nothing may be expected of. */
static inline void soil_scratch(void) {
    const size_t bytes = (size_t)1 << 20;
    void *memory = scratch_take(bytes, 1);
    if (memory)
        memset(memory, 0xa5, bytes);
    scratch_give(memory);
}

/* A kernel's run of a layer: the outputs are given or NULL as the reference's are; the residual may be y. */
typedef bnncc_status run_layer(void *kernel, const layer *made, const float *residual, float *y, uint8_t *bits,
                               const bnncc_parallel *parallel, bnncc_error *error);

/* Compares a kernel's outputs with the reference's, the work being done in some order. */
static inline void check_layer(tally *tally, random_state *random, const layer *made, run_layer *run, void *kernel,
                               const char *name) {
    const bnncc_conv_params *p = &made->params;
    const order *order = &orders[random_between(random, 0, ORDERS - 1)];
    bnncc_error error = {""};
    float *y = made->y ? must_allocate(made->y_size) : NULL;
    uint8_t *bits = made->bits ? must_allocate(made->bits_size) : NULL;
    if (y)
        memset(y, 0xa5, made->y_size);
    if (bits)
        memset(bits, 0xa5, made->bits_size);
    const bool in_place = made->residual && random_one_in(random, 2);
    if (in_place)
        memcpy(y, made->residual, made->y_size);
    soil_scratch();
    const bnncc_status status = run(kernel, made, in_place ? y : made->residual, y, bits, parallel_of(order), &error);
    CHECK(tally,
          !status && (!y || !memcmp(y, made->y, made->y_size)) && (!bits || !memcmp(bits, made->bits, made->bits_size)),
          "%s, %s%s: %d>%d/%d kernel %dx%d stride %d,%d dilation %d,%d pads %d,%d,%d,%d by %d input %dx%dx%d", name,
          order->name, error.message, (int)p->in_channels, (int)p->out_channels, (int)p->group, (int)p->kernel_shape[0],
          (int)p->kernel_shape[1], (int)p->strides[0], (int)p->strides[1], (int)p->dilations[0], (int)p->dilations[1],
          (int)p->pads[0], (int)p->pads[1], (int)p->pads[2], (int)p->pads[3], (int)p->pad_value, (int)made->batch,
          (int)made->height, (int)p->width);
    free(y);
    free(bits);
}

#endif /* BNNCC_TESTS_LAYERS_H */
