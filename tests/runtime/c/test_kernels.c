/* Every operation on every instruction set that this machine runs, against definitions written out below: thousands of
 * small seeded layers over all shapes and attributes. Everything must agree exactly.
 *
 *     test_kernels [layers [seed]] */
#include "orders.h"
#include "random_steps.h"
#include "support.h"

#include <math.h>
#include <string.h>

static const bnncc_isa all_isas[] = {BNNCC_ISA_PORTABLE, BNNCC_ISA_AVX2, BNNCC_ISA_AVX512BW, BNNCC_ISA_AVX512VPOPCNTDQ};
enum { ISAS = sizeof all_isas / sizeof all_isas[0] };

/* ---- Epilogues ---- */

typedef struct random_epilogue {
    bnncc_epilogue epilogue;
    float *scale, *shift;
    int32_t *threshold;
} random_epilogue;

/* `steps`: where the epilogue may point to steps, which are then drawn; NULL for none. */
static random_epilogue make_epilogue(random_state *random, int64_t channels, int64_t length, random_steps *steps) {
    random_epilogue made = {.epilogue = {0}};
    const int64_t outputs = random_between(random, 1, 3); /* bit 0: floats; bit 1: bits */
    made.scale = must_allocate((size_t)channels * sizeof(float));
    made.shift = must_allocate((size_t)channels * sizeof(float));
    made.threshold = must_allocate((size_t)channels * sizeof(int32_t));
    for (int64_t i = 0; i < channels; i++) {
        made.scale[i] = random_float(random) * 3; /* odd mantissas: a fused multiply-add would show */
        made.shift[i] = random_float(random) * 30;
        made.threshold[i] = (int32_t)random_between(random, -length / 4 - 2, length / 4 + 2);
        if (random_one_in(random, 10))
            made.threshold[i] = random_one_in(random, 2) ? INT32_MIN : INT32_MAX;
    }
    if (outputs & 1) {
        made.epilogue.scale = made.scale;
        made.epilogue.shift = made.shift;
        made.epilogue.scale_count = random_one_in(random, 3) ? 1 : (size_t)channels;
        made.epilogue.shift_count = random_one_in(random, 3) ? 1 : (size_t)channels;
    }
    const bool bits_of_dot = random_one_in(random, 3);
    if (steps && outputs & 1 && random_one_in(random, 2)) {
        draw_steps(random, channels, outputs & 2 && !bits_of_dot, steps);
        made.epilogue.steps = &steps->steps;
    }
    if (outputs & 2 && (bits_of_dot || !made.epilogue.steps)) {
        made.epilogue.threshold = made.threshold;
        made.epilogue.threshold_count = (size_t)channels;
    }
    return made;
}

static void free_epilogue(random_epilogue *made) {
    free(made->scale);
    free(made->shift);
    free(made->threshold);
}

/* The definition. volatile: the product is rounded to float32 before the sum, however this file is compiled. */
static float expected_float(const bnncc_epilogue *epilogue, int64_t channel, int32_t dot) {
    volatile float product = (float)dot * epilogue->scale[epilogue->scale_count == 1 ? 0 : channel];
    return product + epilogue->shift[epilogue->shift_count == 1 ? 0 : channel];
}

/* ---- Convolution ---- */

static int32_t expected_dot(const bnncc_conv_params *p, int64_t height, const uint8_t *x, const uint8_t *weight,
                            int64_t image, int64_t filter, int64_t row, int64_t column) {
    const int64_t channels = p->in_channels / p->group, group = filter / (p->out_channels / p->group);
    const int64_t kernel_height = p->kernel_shape[0], kernel_width = p->kernel_shape[1];
    const uint8_t *signs = weight + (size_t)filter * packed_bytes(channels * kernel_height * kernel_width);
    int32_t dot = 0;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t r = 0; r < kernel_height; r++)
            for (int64_t s = 0; s < kernel_width; s++) {
                const int64_t in_row = row * p->strides[0] + r * p->dilations[0] - p->pads[0];
                const int64_t in_column = column * p->strides[1] + s * p->dilations[1] - p->pads[1];
                const int64_t plane = image * p->in_channels + group * channels + c;
                int value = (int)p->pad_value;
                if (in_row >= 0 && in_row < height && in_column >= 0 && in_column < p->width)
                    value = sign_at(x + (size_t)(plane * height + in_row) * packed_bytes(p->width), in_column);
                dot += value * sign_at(signs, (c * kernel_height + r) * kernel_width + s);
            }
    return dot;
}

/* Channels of a group: often around the sizes where layouts change. */
static int64_t random_channels(random_state *random) {
    const int64_t edges[] = {1, 2, 8, 63, 64, 65, 128, 130};
    if (random_one_in(random, 3))
        return edges[random_between(random, 0, 7)];
    return random_between(random, 1, 40);
}

static bool random_conv(random_state *random, bnncc_conv_params *p, int64_t *batch, int64_t *height) {
    const int64_t kind = random_between(random, 0, 9);
    *p = (bnncc_conv_params){.group = 1, .pad_value = random_between(random, -1, 1)};
    if (kind == 0) { /* depthwise */
        p->group = random_between(random, 1, 70);
        p->in_channels = p->group;
        p->out_channels = p->group * random_between(random, 1, 2);
    } else {
        p->group = kind < 4 ? random_between(random, 1, 4) : 1;
        p->in_channels = p->group * random_channels(random);
        p->out_channels = p->group * random_channels(random);
    }
    for (int axis = 0; axis < 2; axis++) {
        p->kernel_shape[axis] = random_one_in(random, 3) ? random_between(random, 1, 7) : random_between(random, 1, 3);
        p->strides[axis] = random_one_in(random, 3) ? random_between(random, 1, 4) : 1;
        p->dilations[axis] = random_one_in(random, 4) ? random_between(random, 1, 3) : 1;
        for (int end = 0; end < 2; end++) /* sometimes whole windows of padding */
            p->pads[axis + 2 * end] = random_between(random, 0, random_one_in(random, 6) ? 9 : 2);
    }
    p->width = random_one_in(random, 12) ? random_between(random, 60, 140) : random_between(random, 1, 20);
    *height = random_between(random, 1, p->width > 40 ? 3 : 14);
    *batch = random_one_in(random, 4) ? random_between(random, 2, 3) : 1;
    const int64_t macs = *batch * (*height + 8) * (p->width + 8) * p->out_channels * (p->in_channels / p->group) *
                         p->kernel_shape[0] * p->kernel_shape[1];
    return macs < 8000000; /* the definition is slow */
}

static void test_conv(tally *tally, random_state *random, const bool *supported) {
    bnncc_conv_params p;
    int64_t batch, height, out_height = 0, out_width = 0;
    if (!random_conv(random, &p, &batch, &height))
        return;
    const int64_t length = p.in_channels / p.group * p.kernel_shape[0] * p.kernel_shape[1];
    const size_t weight_size = (size_t)p.out_channels * packed_bytes(length);
    const size_t x_size = (size_t)(batch * p.in_channels * height) * packed_bytes(p.width);
    uint8_t *weight = random_bytes(random, weight_size), *x = random_bytes(random, x_size);
    random_steps steps = {.operands = NULL};
    random_epilogue made = make_epilogue(random, p.out_channels, length, &steps);
    const bool gives_bits = made.epilogue.threshold || steps.threshold,
               residual_added = adds_residual(made.epilogue.steps),
               sums_added = has_step(made.epilogue.steps, BNNCC_STEP_WINDOW_SUM);
    uint8_t *ones = must_allocate(weight_size);
    memset(ones, 0xff, weight_size);
    int32_t *dots = NULL, *sums = NULL; /* of the windows: what filters of ones give */
    float *residual = NULL;
    for (int i = 0; i < ISAS; i++) {
        bnncc_error error = {""};
        bnncc_conv *conv = NULL;
        if (!supported[i])
            continue;
        bnncc_status status =
            bnncc_conv_create(&p, weight, weight_size, &made.epilogue, NULL, all_isas[i], &conv, &error);
        if (!status)
            status = bnncc_conv_output_shape(conv, height, &out_height, &out_width, &error);
        bool fits = true;
        for (int axis = 0; axis < 2; axis++)
            fits &= (p.kernel_shape[axis] - 1) * p.dilations[axis] + 1 <=
                    (axis ? p.width : height) + p.pads[axis] + p.pads[axis + 2];
        CHECK(tally, (status == BNNCC_OK) == fits, "status %d (%s)", (int)status, error.message);
        if (status) {
            bnncc_conv_destroy(conv);
            continue;
        }
        const size_t count = (size_t)(batch * p.out_channels * out_height * out_width);
        const size_t bytes = (size_t)(batch * p.out_channels * out_height) * packed_bytes(out_width);
        if (!dots) {
            dots = must_allocate(count * sizeof *dots);
            sums = must_allocate(count * sizeof *sums);
            for (size_t o = 0; o < count; o++) {
                const int64_t position = (int64_t)o, column = position % out_width;
                const int64_t row = position / out_width % out_height, plane = position / out_width / out_height;
                const int64_t image = plane / p.out_channels, filter = plane % p.out_channels;
                dots[o] = expected_dot(&p, height, x, weight, image, filter, row, column);
                sums[o] = sums_added ? expected_dot(&p, height, x, ones, image, filter, row, column) : 0;
            }
        }
        const order *order = &orders[random_between(random, 0, ORDERS - 1)];
        float *y = made.epilogue.scale ? must_allocate(count * sizeof *y) : NULL;
        uint8_t *bits = gives_bits ? must_allocate(bytes) : NULL;
        if (bits)
            memset(bits, 0xa5, bytes); /* what is not written, and unused bits that are not cleared, must show */
        if (y)
            memset(y, 0xa5, count * sizeof *y);
        if (residual_added && !residual)
            residual = random_residual(random, count);
        const bool in_place = residual && random_one_in(random, 2);
        if (in_place)
            memcpy(y, residual, count * sizeof *y);
        status = bnncc_conv_run(conv, x, in_place ? y : residual, batch, height, y, bits, parallel_of(order), &error);
        CHECK(tally, status == BNNCC_OK, "%s", error.message);
        size_t wrong_floats = 0, wrong_bits = 0;
        for (size_t o = 0; o < count; o++) {
            const int64_t position = (int64_t)o, channel = position / out_width / out_height % p.out_channels;
            float expected = y ? expected_float(&made.epilogue, channel, dots[o]) : 0;
            if (made.epilogue.steps)
                expected =
                    expected_steps(made.epilogue.steps, channel, expected, residual ? residual[o] : 0, (float)sums[o]);
            if (y)
                wrong_floats += !same_float(y[o], expected);
            if (bits)
                wrong_bits += (sign_at(bits + o / (size_t)out_width * packed_bytes(out_width), position % out_width) >
                               0) != (steps.threshold ? expected_sign(made.epilogue.steps, channel, expected)
                                                      : dots[o] >= made.threshold[channel]);
        }
        if (bits && out_width % 8)
            for (size_t row = 1; row <= bytes / packed_bytes(out_width); row++)
                wrong_bits += bits[row * packed_bytes(out_width) - 1] >> out_width % 8 != 0;
        CHECK(tally, wrong_floats + wrong_bits == 0,
              "%s, %s: %zu floats, %zu bits of %zu: %d>%d/%d kernel %dx%d stride %d,%d dilation %d,%d "
              "pads %d,%d,%d,%d by %d input %dx%dx%d",
              bnncc_conv_kernel(conv), order->name, wrong_floats, wrong_bits, count, (int)p.in_channels,
              (int)p.out_channels, (int)p.group, (int)p.kernel_shape[0], (int)p.kernel_shape[1], (int)p.strides[0],
              (int)p.strides[1], (int)p.dilations[0], (int)p.dilations[1], (int)p.pads[0], (int)p.pads[1],
              (int)p.pads[2], (int)p.pads[3], (int)p.pad_value, (int)batch, (int)height, (int)p.width);
        free(y);
        free(bits);
        bnncc_conv_destroy(conv);
    }
    free(dots);
    free(sums);
    free(ones);
    free(residual);
    free(weight);
    free(x);
    free_epilogue(&made);
    free_steps(&steps);
}

/* Layers that are large enough to be cut into many pieces: every order gives the same bytes as no threads. */
static void test_split(tally *tally, random_state *random, const bool *supported) {
    bnncc_conv_params p = {.in_channels = random_between(random, 60, 140),
                           .group = 1,
                           .strides = {1, 1},
                           .dilations = {1, 1},
                           .kernel_shape = {3, 3},
                           .pads = {1, 1, 1, 1},
                           .pad_value = random_between(random, -1, 1),
                           .width = random_between(random, 20, 90)};
    if (random_one_in(random, 3)) {
        p.group = 2;
        p.in_channels *= 2;
    }
    p.out_channels = p.group * random_between(random, 60, 140);
    const int64_t batch = random_between(random, 1, 3), height = random_between(random, 20, 40);
    const size_t weight_size = (size_t)p.out_channels * packed_bytes(p.in_channels / p.group * 9);
    const size_t count = (size_t)(batch * p.out_channels * height * p.width) * sizeof(float);
    const size_t bytes = (size_t)(batch * p.out_channels * height) * packed_bytes(p.width);
    uint8_t *weight = random_bytes(random, weight_size);
    uint8_t *x = random_bytes(random, (size_t)(batch * p.in_channels * height) * packed_bytes(p.width));
    random_epilogue made = make_epilogue(random, p.out_channels, p.in_channels / p.group * 9, NULL);
    made.epilogue = (bnncc_epilogue){.scale = made.scale,
                                     .shift = made.shift,
                                     .scale_count = (size_t)p.out_channels,
                                     .shift_count = (size_t)p.out_channels,
                                     .threshold = made.threshold,
                                     .threshold_count = (size_t)p.out_channels};
    uint8_t *first_bits = must_allocate(bytes), *bits = must_allocate(bytes);
    float *first_y = must_allocate(count), *y = must_allocate(count);
    bool first = true;
    for (int i = ISAS - 1; i >= 0; i--) {
        bnncc_error error = {""};
        bnncc_conv *conv = NULL;
        if (!supported[i])
            continue;
        CHECK(tally, !bnncc_conv_create(&p, weight, weight_size, &made.epilogue, NULL, all_isas[i], &conv, &error),
              "%s", error.message);
        for (int o = 0; o < ORDERS; o++) {
            memset(y, 0xa5, count);
            memset(bits, 0xa5, bytes);
            const bnncc_status status = bnncc_conv_run(conv, x, NULL, batch, height, first ? first_y : y,
                                                       first ? first_bits : bits, parallel_of(&orders[o]), &error);
            CHECK(tally, status == BNNCC_OK, "%s", error.message);
            if (!first)
                CHECK(tally, !memcmp(y, first_y, count) && !memcmp(bits, first_bits, bytes), "%s, %s",
                      bnncc_conv_kernel(conv), orders[o].name);
            first = false;
        }
        bnncc_conv_destroy(conv);
    }
    free(weight);
    free(x);
    free(first_bits);
    free(bits);
    free(first_y);
    free(y);
    free_epilogue(&made);
}

/* ---- Linear ---- */

static void test_linear(tally *tally, random_state *random, const bool *supported) {
    const bnncc_linear_params p = {.out_features = random_between(random, 1, 140),
                                   .rows = random_between(random, 1, 12),
                                   .width = random_between(random, 1, random_one_in(random, 8) ? 700 : 70)};
    const int64_t batch = random_one_in(random, 3) ? random_between(random, 1, 130) : random_between(random, 1, 9);
    const int64_t length = p.rows * p.width;
    const size_t weight_size = (size_t)p.out_features * packed_bytes(length);
    const size_t sample_size = (size_t)p.rows * packed_bytes(p.width);
    const size_t count = (size_t)(batch * p.out_features), row_bytes = packed_bytes(p.out_features);
    uint8_t *weight = random_bytes(random, weight_size), *x = random_bytes(random, sample_size * (size_t)batch);
    random_epilogue made = make_epilogue(random, p.out_features, length, NULL);
    int32_t *dots = must_allocate(count * sizeof *dots);
    for (int64_t n = 0; n < batch; n++)
        for (int64_t f = 0; f < p.out_features; f++) {
            int32_t dot = 0;
            for (int64_t k = 0; k < length; k++)
                dot +=
                    sign_at(x + (size_t)n * sample_size + (size_t)(k / p.width) * packed_bytes(p.width), k % p.width) *
                    sign_at(weight + (size_t)f * packed_bytes(length), k);
            dots[n * p.out_features + f] = dot;
        }
    for (int i = 0; i < ISAS; i++) {
        bnncc_error error = {""};
        bnncc_linear *linear = NULL;
        if (!supported[i])
            continue;
        const order *order = &orders[random_between(random, 0, ORDERS - 1)];
        float *y = made.epilogue.scale ? must_allocate(count * sizeof *y) : NULL;
        uint8_t *bits = made.epilogue.threshold ? must_allocate((size_t)batch * row_bytes) : NULL;
        if (bits)
            memset(bits, 0xa5, (size_t)batch * row_bytes);
        if (y)
            memset(y, 0xa5, count * sizeof *y);
        bnncc_status status =
            bnncc_linear_create(&p, weight, weight_size, &made.epilogue, all_isas[i], &linear, &error);
        if (!status)
            status = bnncc_linear_run(linear, x, batch, y, bits, parallel_of(order), &error);
        CHECK(tally, status == BNNCC_OK, "%s", error.message);
        size_t wrong = 0;
        for (size_t o = 0; o < count; o++) {
            const int64_t feature = (int64_t)o % p.out_features;
            if (y)
                wrong += y[o] != expected_float(&made.epilogue, feature, dots[o]);
            if (bits)
                wrong += (sign_at(bits + o / (size_t)p.out_features * row_bytes, feature) > 0) !=
                         (dots[o] >= made.threshold[feature]);
        }
        if (bits && p.out_features % 8)
            for (size_t row = 1; row <= (size_t)batch; row++)
                wrong += bits[row * row_bytes - 1] >> p.out_features % 8 != 0;
        CHECK(tally, wrong == 0, "%s, %s: %zu of %zu: %d x %d > %d, batch %d", bnncc_isa_name(all_isas[i]), order->name,
              wrong, count, (int)p.rows, (int)p.width, (int)p.out_features, (int)batch);
        free(y);
        free(bits);
        bnncc_linear_destroy(linear);
    }
    free(dots);
    free(weight);
    free(x);
    free_epilogue(&made);
}

/* Equal and opposite vectors, the largest counts there can be, at lengths around those where counters are emptied and
 * up to the limit; more is refused. */
static void test_extremes(tally *tally, const bool *supported) {
    const int64_t lengths[] = {1, 63, 64, 1984, 1985, 2047, 2048, 2049, 6400, 100003, 1 << 24};
    const float scale = 1, shift = 0;
    const bnncc_epilogue epilogue = {&scale, &shift, 1, 1, NULL, 0, NULL};
    enum { FEATURES = 3, SAMPLES = 5 };
    const size_t most = (1 << 24) / 8;
    uint8_t *weight = must_allocate(FEATURES * most), *x = must_allocate(SAMPLES * most);
    for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
        const bnncc_linear_params p = {FEATURES, 1, lengths[l]};
        const size_t bytes = packed_bytes(lengths[l]);
        for (size_t i = 0; i < SAMPLES * bytes; i++)
            x[i] = i / bytes % 2 ? 0xff : 0; /* samples 1 and 3 are +1 throughout, the others -1 */
        for (size_t i = 0; i < FEATURES * bytes; i++)
            weight[i] = i / bytes % 2 ? 0 : 0xff; /* features 0 and 2 are +1, 1 is -1 */
        for (int i = 0; i < ISAS; i++) {
            bnncc_error error = {""};
            bnncc_linear *linear = NULL;
            float y[SAMPLES * FEATURES];
            if (!supported[i])
                continue;
            bnncc_status status =
                bnncc_linear_create(&p, weight, FEATURES * bytes, &epilogue, all_isas[i], &linear, &error);
            if (!status)
                status = bnncc_linear_run(linear, x, SAMPLES, y, NULL, NULL, &error);
            CHECK(tally, status == BNNCC_OK, "%s", error.message);
            for (int o = 0; o < SAMPLES * FEATURES && !status; o++) {
                const bool equal = (o / FEATURES % 2) != (o % FEATURES % 2);
                CHECK(tally, y[o] == (float)(equal ? lengths[l] : -lengths[l]), "%s, length %d, output %d: %g",
                      bnncc_isa_name(all_isas[i]), (int)lengths[l], o, (double)y[o]);
            }
            bnncc_linear_destroy(linear);
        }
    }
    const bnncc_linear_params long_params = {1, 1, (1 << 24) + 1};
    bnncc_linear *linear = NULL;
    CHECK(tally,
          bnncc_linear_create(&long_params, weight, most + 1, &epilogue, BNNCC_ISA_PORTABLE, &linear, NULL) ==
              BNNCC_INVALID_ARGUMENT,
          "2^24 + 1 inputs are accepted");
    free(weight);
    free(x);
}

/* ---- Binarize and unpack ---- */

static float random_input(random_state *random, const float *thresholds, size_t count) {
    const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -NAN, 1e-45f, -1e-45f};
    if (random_one_in(random, 5))
        return special[random_between(random, 0, 7)];
    if (random_one_in(random, 3)) /* a tie */
        return thresholds[random_between(random, 0, (int64_t)count - 1)];
    return random_float(random);
}

static void test_binarize(tally *tally, random_state *random, const bool *supported) {
    bnncc_binarize_params p = {.channels = random_between(random, 1, 6),
                               .rows = random_between(random, 1, random_one_in(random, 8) ? 400 : 5),
                               .width = random_between(random, 1, 80),
                               .nan_bit = (int)random_between(random, 0, 1)};
    if (random_one_in(random, 3)) {
        p.per_feature = 1;
        p.channels = p.rows = 1;
    }
    const size_t values = (size_t)(p.per_feature ? p.width : p.channels);
    p.threshold_count = random_one_in(random, 3) ? 1 : values;
    p.direction_count = random_one_in(random, 3) ? 1 : values;
    float *threshold = must_allocate(p.threshold_count * sizeof *threshold);
    int8_t *direction = must_allocate(p.direction_count);
    for (size_t i = 0; i < p.threshold_count; i++) {
        do
            threshold[i] = random_input(random, &(float){0.25f}, 1);
        while (isnan(threshold[i]));
    }
    for (size_t i = 0; i < p.direction_count; i++)
        direction[i] = random_one_in(random, 2) ? 1 : -1;
    p.threshold = threshold;
    p.direction = direction;
    const int64_t batch = random_between(random, 1, 3), rows = batch * p.channels * p.rows;
    const size_t row_bytes = packed_bytes(p.width);
    float *x = must_allocate((size_t)(rows * p.width) * sizeof *x), *y = must_allocate((size_t)p.width * sizeof *y);
    uint8_t *bits = must_allocate((size_t)rows * row_bytes);
    for (int64_t i = 0; i < rows * p.width; i++)
        x[i] = random_input(random, threshold, p.threshold_count);
    for (int i = 0; i < ISAS; i++) {
        bnncc_error error = {""};
        if (!supported[i])
            continue;
        const order *order = &orders[random_between(random, 0, ORDERS - 1)];
        memset(bits, 0xa5, (size_t)rows * row_bytes);
        const bnncc_status status = bnncc_binarize(&p, x, batch, bits, all_isas[i], parallel_of(order), &error);
        CHECK(tally, status == BNNCC_OK, "%s", error.message);
        for (int64_t row = 0; row < rows; row++) {
            const uint8_t *packed = bits + (size_t)row * row_bytes;
            for (int64_t j = 0; j < p.width; j++) {
                const int64_t value = p.per_feature ? j : row / p.rows % p.channels;
                const float t = threshold[p.threshold_count == 1 ? 0 : value], v = x[row * p.width + j];
                const bool expected = isnan(v)                                            ? p.nan_bit
                                      : direction[p.direction_count == 1 ? 0 : value] > 0 ? v >= t
                                                                                          : v <= t;
                CHECK(tally, (sign_at(packed, j) > 0) == expected, "%s: %g against %g", bnncc_isa_name(all_isas[i]),
                      (double)v, (double)t);
            }
            CHECK(tally, p.width % 8 == 0 || packed[row_bytes - 1] >> p.width % 8 == 0, "unused bits are set");
            CHECK(tally, !bnncc_unpack_signs(packed, 1, p.width, y, NULL, &error), "%s", error.message);
            for (int64_t j = 0; j < p.width; j++)
                CHECK(tally, y[j] == (float)sign_at(packed, j), "unpacked %g", (double)y[j]);
        }
    }
    free(threshold);
    free(direction);
    free(x);
    free(y);
    free(bits);
}

/* ---- Max-pooling ---- */

/* ONNX's rule in its own words: the last window of ceil_mode must begin in the input or the padding before it. */
static int64_t expected_pool_size(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t before,
                                  int64_t after, bool ceil_mode) {
    const double room = (double)(size + before + after - ((kernel - 1) * dilation + 1));
    int64_t out = (int64_t)(ceil_mode ? ceil(room / (double)stride) : floor(room / (double)stride)) + 1;
    if (ceil_mode && (out - 1) * stride >= size + before)
        out--;
    return room < 0 ? 0 : out;
}

/* Often around the ends of words. */
static int64_t random_pool_width(random_state *random) {
    if (random_one_in(random, 3))
        return 64 * random_between(random, 1, 4) + random_between(random, -3, 3);
    return random_between(random, 1, random_one_in(random, 4) ? 300 : 20);
}

static void test_pool(tally *tally, random_state *random) {
    bnncc_pool_params p = {.channels = random_between(random, 1, 5),
                           .height = random_between(random, 1, 12),
                           .width = random_pool_width(random),
                           .ceil_mode = (int)random_between(random, 0, 1)};
    int64_t expected[2], out_height = 0, out_width = 0;
    for (int axis = 0; axis < 2; axis++) {
        p.kernel_shape[axis] = random_between(random, 1, random_one_in(random, 5) ? 9 : 3);
        p.strides[axis] = random_one_in(random, 2) ? 2 : random_between(random, 1, 4);
        p.dilations[axis] = random_one_in(random, 4) ? random_between(random, 1, 3) : 1;
        p.pads[axis] = random_between(random, 0, p.kernel_shape[axis] - 1);
        p.pads[axis + 2] = random_between(random, 0, p.kernel_shape[axis] - 1);
        expected[axis] = expected_pool_size(axis ? p.width : p.height, p.kernel_shape[axis], p.strides[axis],
                                            p.dilations[axis], p.pads[axis], p.pads[axis + 2], p.ceil_mode);
    }
    int8_t direction[5];
    for (int i = 0; i < 5; i++)
        direction[i] = random_one_in(random, 2) ? 1 : -1;
    p.direction = direction;
    p.direction_count = random_one_in(random, 2) ? 1 : (size_t)p.channels;
    bnncc_error error = {""};
    bnncc_status status = bnncc_pool_output_shape(&p, &out_height, &out_width, &error);
    CHECK(tally, (status == BNNCC_OK) == (expected[0] > 0 && expected[1] > 0), "%s", error.message);
    if (status)
        return;
    CHECK(tally, out_height == expected[0] && out_width == expected[1], "%d x %d, not %d x %d", (int)out_height,
          (int)out_width, (int)expected[0], (int)expected[1]);
    const int64_t batch = random_between(random, 1, 2);
    const size_t row_bytes = packed_bytes(p.width), out_bytes = packed_bytes(out_width);
    const size_t bytes = (size_t)(batch * p.channels * out_height) * out_bytes;
    uint8_t *x = random_bytes(random, (size_t)(batch * p.channels * p.height) * row_bytes);
    uint8_t *bits = must_allocate(bytes);
    memset(bits, 0xa5, bytes);
    const order *order = &orders[random_between(random, 0, ORDERS - 1)];
    status = bnncc_max_pool_signs(&p, x, batch, bits, parallel_of(order), &error);
    CHECK(tally, status == BNNCC_OK, "%s", error.message);
    size_t wrong = 0;
    for (int64_t plane = 0; plane < batch * p.channels; plane++)
        for (int64_t oy = 0; oy < out_height; oy++) {
            const uint8_t *row = bits + (size_t)(plane * out_height + oy) * out_bytes;
            for (int64_t ox = 0; ox < out_width; ox++) {
                const int d = direction[p.direction_count == 1 ? 0 : plane % p.channels];
                int best = -1; /* of sign * direction; without valid taps it stays */
                for (int64_t r = 0; r < p.kernel_shape[0]; r++)
                    for (int64_t c = 0; c < p.kernel_shape[1]; c++) {
                        const int64_t iy = oy * p.strides[0] - p.pads[0] + r * p.dilations[0];
                        const int64_t ix = ox * p.strides[1] - p.pads[1] + c * p.dilations[1];
                        if (iy >= 0 && iy < p.height && ix >= 0 && ix < p.width &&
                            d * sign_at(x + (size_t)(plane * p.height + iy) * row_bytes, ix) > 0)
                            best = 1;
                    }
                wrong += sign_at(row, ox) != d * best;
            }
            wrong += out_width % 8 && row[out_bytes - 1] >> out_width % 8;
        }
    CHECK(tally, wrong == 0, "%zu bits: %d x %d kernel %d x %d stride %d,%d", wrong, (int)p.height, (int)p.width,
          (int)p.kernel_shape[0], (int)p.kernel_shape[1], (int)p.strides[0], (int)p.strides[1]);
    free(x);
    free(bits);
}

int main(int argc, char **argv) {
    const long layers = argc > 1 ? atol(argv[1]) : 2000;
    random_state random = {.state = argc > 2 ? 2 * strtoull(argv[2], NULL, 10) + 1 : 20240501};
    tally tally = {0, 0};
    bool supported[ISAS];
    printf("instruction sets:");
    for (int i = 0; i < ISAS; i++) {
        supported[i] = bnncc_isa_supported(all_isas[i]);
        printf(" %s%s", bnncc_isa_name(all_isas[i]), supported[i] ? "" : " (not here)");
    }
    printf("\n");
    test_extremes(&tally, supported);
    for (long i = 0; i < layers; i++) {
        test_conv(&tally, &random, supported);
        if (i % 4 == 0)
            test_linear(&tally, &random, supported);
        if (i % 4 == 1)
            test_binarize(&tally, &random, supported);
        if (i % 400 == 0)
            test_split(&tally, &random, supported);
        if (i % 2 == 0)
            test_pool(&tally, &random);
    }
    return finish(&tally, "test_kernels");
}
