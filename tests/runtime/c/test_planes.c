/* Random layers with random trees through the bit-plane kernel, with lanes of every width and on every instruction set,
 * and through the portable dot kernel: every bit and float must be the same, in whatever order the work is done.
 *
 *     test_planes [layers [seed]] */
#include "orders.h"
#include "planes/planes.h"
#include "random_steps.h"

#include <string.h>

/* Instruction sets and lanes that go together. */
static const struct {
    bnncc_isa isa;
    size_t lane_bytes;
} forms[] = {{BNNCC_ISA_AVX512BW, 64},        {BNNCC_ISA_AVX512BW, 32}, {BNNCC_ISA_AVX512VPOPCNTDQ, 64},
             {BNNCC_ISA_AVX512VPOPCNTDQ, 32}, {BNNCC_ISA_AVX2, 32},     {BNNCC_ISA_PORTABLE, 8}};
enum { FORMS = sizeof forms / sizeof forms[0] };

typedef struct layer {
    bnncc_conv_params params;
    int64_t height, batch, length;
    uint8_t *weight, *x;
    size_t weight_size, x_size;
    float *scale, *shift;
    int32_t *threshold;
    bnncc_epilogue epilogue;
    random_steps steps; /* to be pointed to where the layer stays */
    bool has_steps, gives_bits;
    float *residual; /* NULL where no step adds it */
    int64_t group_nodes[3];
    int32_t *parents;
    uint8_t *flipped;
    bnncc_filter_tree tree;
} layer;

static void draw_shape(random_state *random, layer *made) {
    const int64_t sizes[] = {1, 5, 7, 8, 14, 15, 28, 33, 56, 60};
    bnncc_conv_params p = {.pad_value = random_between(random, -1, 1)};
    p.group = random_one_in(random, 3) ? random_between(random, 2, 3) : 1;
    p.in_channels = p.group * random_between(random, 1, random_one_in(random, 4) ? 90 : 12);
    p.out_channels = p.group * random_between(random, 1, 12);
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
    made->length = p.in_channels / p.group * p.kernel_shape[0] * p.kernel_shape[1];
    made->params = p;
}

static void draw_tree(random_state *random, layer *made) {
    const int64_t channels = made->params.out_channels, filters = channels / made->params.group;
    made->parents = must_allocate((size_t)(channels + 3 * 6) * sizeof *made->parents);
    made->flipped = random_bytes(random, (size_t)channels);
    for (int64_t i = 0; i < channels; i++)
        made->flipped[i] &= 1;
    size_t count = 0;
    for (int64_t group = 0; group < made->params.group; group++) {
        const int64_t nodes = filters + random_between(random, 0, 6);
        int32_t order[12 + 6];
        for (int32_t i = 0; i < nodes; i++) {
            const int64_t place = random_between(random, 0, i);
            order[i] = order[place];
            order[place] = i;
        }
        for (int32_t i = 0; i < nodes; i++)
            made->parents[count + (size_t)order[i]] =
                i == 0 || random_one_in(random, 4) ? -1 : order[random_between(random, 0, i - 1)];
        made->group_nodes[group] = nodes;
        count += (size_t)nodes;
    }
    made->tree = (bnncc_filter_tree){NULL, made->parents, count, made->flipped};
}

static layer draw_layer(random_state *random) {
    layer made = {.height = 1};
    draw_shape(random, &made);
    const size_t channels = (size_t)made.params.out_channels;
    made.weight_size = channels * packed_bytes(made.length);
    made.weight = random_bytes(random, made.weight_size); /* unused bits of rows included */
    made.x_size = (size_t)(made.batch * made.params.in_channels * made.height) * packed_bytes(made.params.width);
    made.x = random_bytes(random, made.x_size);
    made.scale = must_allocate(channels * sizeof(float));
    made.shift = must_allocate(channels * sizeof(float));
    made.threshold = must_allocate(channels * sizeof(int32_t));
    for (size_t i = 0; i < channels; i++) {
        made.scale[i] = random_float(random) * 3;
        made.shift[i] = random_float(random) * 30;
        made.threshold[i] = (int32_t)random_between(random, -made.length / 3 - 2, made.length / 3 + 2);
        if (random_one_in(random, 10))
            made.threshold[i] = random_one_in(random, 2) ? INT32_MIN : INT32_MAX;
    }
    const int64_t outputs = random_between(random, 1, 3); /* bit 0: floats; bit 1: bits */
    if (outputs & 1) {
        made.epilogue.scale = made.scale;
        made.epilogue.shift = made.shift;
        made.epilogue.scale_count = made.epilogue.shift_count = channels;
    }
    made.gives_bits = outputs & 2;
    made.has_steps = outputs & 1 && random_one_in(random, 2);
    if (made.gives_bits && !made.has_steps) {
        made.epilogue.threshold = made.threshold;
        made.epilogue.threshold_count = channels;
    }
    draw_tree(random, &made);
    return made;
}

static void free_layer(layer *made) {
    free(made->weight);
    free(made->x);
    free(made->scale);
    free(made->shift);
    free(made->threshold);
    free(made->parents);
    free(made->flipped);
    free_steps(&made->steps);
    free(made->residual);
}

/* One form of the kernel against the dot kernel's outputs. */
static void check_form(tally *tally, random_state *random, const layer *made, size_t form, const group_tree *trees,
                       int64_t out_height, int64_t out_width, const float *y, const uint8_t *bits) {
    const bnncc_conv_params *p = &made->params;
    const size_t planes = (size_t)(made->batch * p->out_channels), rows = planes * (size_t)out_height;
    const size_t y_bytes = rows * (size_t)out_width * sizeof(float), bit_bytes = rows * packed_bytes(out_width);
    planes_plan plan;
    planes_conv *conv = NULL;
    epilogue kept = {0};
    bnncc_error error = {""};
    CHECK(tally, planes_plan_create(p, (size_t)out_width, forms[form].isa, forms[form].lane_bytes, &plan),
          "a small layer is refused");
    CHECK(tally, !epilogue_create(&kept, &made->epilogue, (size_t)p->out_channels, forms[form].isa, &error), "%s",
          error.message);
    bnncc_status status = planes_conv_create(&plan, trees, &kept, &conv, &error);
    CHECK(tally, !status, "%s", error.message);
    const order *order = &orders[random_between(random, 0, ORDERS - 1)];
    float *my_y = y ? must_allocate(y_bytes) : NULL;
    uint8_t *my_bits = bits ? must_allocate(bit_bytes) : NULL;
    if (my_y)
        memset(my_y, 0xa5, y_bytes);
    if (my_bits)
        memset(my_bits, 0xa5, bit_bytes);
    const bool in_place = made->residual && random_one_in(random, 2);
    if (in_place)
        memcpy(my_y, made->residual, y_bytes);
    if (!status)
        status = planes_conv_run(conv, made->x, in_place ? my_y : made->residual, (size_t)made->batch,
                                 (size_t)made->height, (size_t)out_height, my_y, my_bits, parallel_of(order), &error);
    CHECK(tally, !status && (!y || !memcmp(y, my_y, y_bytes)) && (!bits || !memcmp(bits, my_bits, bit_bytes)),
          "%s, %d bits, %s%s: %d>%d/%d kernel %dx%d stride %d,%d dilation %d,%d pads %d,%d,%d,%d by %d input %dx%dx%d",
          bnncc_isa_name(forms[form].isa), (int)forms[form].lane_bytes * 8, order->name, error.message,
          (int)p->in_channels, (int)p->out_channels, (int)p->group, (int)p->kernel_shape[0], (int)p->kernel_shape[1],
          (int)p->strides[0], (int)p->strides[1], (int)p->dilations[0], (int)p->dilations[1], (int)p->pads[0],
          (int)p->pads[1], (int)p->pads[2], (int)p->pads[3], (int)p->pad_value, (int)made->batch, (int)made->height,
          (int)p->width);
    free(my_y);
    free(my_bits);
    planes_conv_destroy(conv);
    epilogue_destroy(&kept);
}

static bool test_layer(tally *tally, random_state *random) {
    layer made = draw_layer(random);
    bnncc_error error = {""};
    bnncc_conv *dot = NULL;
    group_tree *trees = NULL;
    int64_t out_height = 0, out_width = 0;
    made.tree.group_nodes = made.group_nodes;
    if (made.has_steps) {
        draw_steps(random, made.params.out_channels, made.gives_bits, &made.steps);
        made.epilogue.steps = &made.steps.steps;
    }
    const bool fits = !bnncc_conv_create(&made.params, made.weight, made.weight_size, &made.epilogue, NULL,
                                         BNNCC_ISA_PORTABLE, &dot, &error) &&
                      !bnncc_conv_output_shape(dot, made.height, &out_height, &out_width, &error);
    if (fits) {
        const size_t rows = (size_t)(made.batch * made.params.out_channels * out_height);
        float *y = made.epilogue.scale ? must_allocate(rows * (size_t)out_width * sizeof(float)) : NULL;
        uint8_t *bits = made.gives_bits ? must_allocate(rows * packed_bytes(out_width)) : NULL;
        if (adds_residual(made.epilogue.steps))
            made.residual = random_residual(random, rows * (size_t)out_width);
        CHECK(tally, !bnncc_conv_run(dot, made.x, made.residual, made.batch, made.height, y, bits, NULL, &error), "%s",
              error.message);
        CHECK(tally,
              !group_trees_create(&made.tree, made.weight, (size_t)made.params.group,
                                  (size_t)(made.params.out_channels / made.params.group), (size_t)made.length, &trees,
                                  &error),
              "%s", error.message);
        for (size_t form = 0; trees && form < FORMS; form++)
            if (bnncc_isa_supported(forms[form].isa))
                check_form(tally, random, &made, form, trees, out_height, out_width, y, bits);
        group_trees_destroy(trees, (size_t)made.params.group);
        free(y);
        free(bits);
    }
    bnncc_conv_destroy(dot);
    free_layer(&made);
    return fits;
}

/* Layers that the kernel does not serve: it must say so and not count on sizes that overflow. */
static void test_refusals(tally *tally) {
    const bnncc_conv_params small = {.out_channels = 4,
                                     .in_channels = 4,
                                     .group = 1,
                                     .kernel_shape = {3, 3},
                                     .strides = {1, 1},
                                     .dilations = {1, 1},
                                     .width = 20};
    planes_plan plan;
    CHECK(tally, planes_plan_create(&small, 18, BNNCC_ISA_PORTABLE, 8, &plan), "a small layer is refused");
    bnncc_conv_params p = small;
    p.in_channels = 1 << 20;
    CHECK(tally, !planes_plan_create(&p, 18, BNNCC_ISA_PORTABLE, 8, &plan), "2^20 channels");
    p = small;
    p.dilations[0] = INT32_MAX;
    CHECK(tally, !planes_plan_create(&p, 18, BNNCC_ISA_PORTABLE, 8, &plan), "a dilation of 2^31 - 1");
    p = small;
    p.width = INT32_MAX;
    CHECK(tally, !planes_plan_create(&p, INT32_MAX - 2, BNNCC_ISA_PORTABLE, 8, &plan), "a width of 2^31 - 1");
    p.kernel_shape[0] = p.kernel_shape[1] = 1;
    p.strides[0] = p.strides[1] = INT32_MAX;
    CHECK(tally, planes_plan_create(&p, 1, BNNCC_ISA_PORTABLE, 8, &plan), "a single pixel is refused");
}

int main(int argc, char **argv) {
    const long layers = argc > 1 ? atol(argv[1]) : 600;
    random_state random = {.state = argc > 2 ? 2 * strtoull(argv[2], NULL, 10) + 1 : 20240504};
    tally tally = {0, 0};
    long run = 0;
    test_refusals(&tally);
    for (long i = 0; i < layers; i++)
        run += test_layer(&tally, &random);
    CHECK(&tally, layers < 10 || run > layers / 2, "%ld layers of %ld are run", run, layers);
    return finish(&tally, "test_planes");
}
