/* Random layers with random trees through the bit-plane kernel, with lanes of every width and on every instruction set,
 * and through the portable dot kernel: every bit and float must be the same, in whatever order the work is done.
 *
 *     test_planes [layers [seed]] */
#include "layers.h"
#include "planes/planes.h"

/* Instruction sets and lanes that go together. */
static const struct {
    bnncc_isa isa;
    size_t lane_bytes;
} forms[] = {{BNNCC_ISA_AVX512BW, 64},        {BNNCC_ISA_AVX512BW, 32}, {BNNCC_ISA_AVX512VPOPCNTDQ, 64},
             {BNNCC_ISA_AVX512VPOPCNTDQ, 32}, {BNNCC_ISA_AVX2, 32},     {BNNCC_ISA_PORTABLE, 8}};
enum { FORMS = sizeof forms / sizeof forms[0], MOST_FILTERS = 40, MOST_VIRTUAL = 6 };

typedef struct drawn_tree {
    int64_t group_nodes[3];
    int32_t *parents;
    uint8_t *flipped;
    size_t count;
} drawn_tree;

static drawn_tree draw_tree(random_state *random, const layer *layer) {
    const int64_t channels = layer->params.out_channels, filters = channels / layer->params.group;
    drawn_tree made = {.count = 0};
    made.parents = must_allocate((size_t)(channels + 3 * MOST_VIRTUAL) * sizeof *made.parents);
    made.flipped = random_bytes(random, (size_t)channels);
    for (int64_t i = 0; i < channels; i++)
        made.flipped[i] &= 1;
    for (int64_t group = 0; group < layer->params.group; group++) {
        const int64_t nodes = filters + random_between(random, 0, MOST_VIRTUAL);
        int32_t order[MOST_FILTERS + MOST_VIRTUAL];
        for (int32_t i = 0; i < nodes; i++) {
            const int64_t place = random_between(random, 0, i);
            order[i] = order[place];
            order[place] = i;
        }
        for (int32_t i = 0; i < nodes; i++)
            made.parents[made.count + (size_t)order[i]] =
                i == 0 || random_one_in(random, 4) ? -1 : order[random_between(random, 0, i - 1)];
        made.group_nodes[group] = nodes;
        made.count += (size_t)nodes;
    }
    return made;
}

static bnncc_status run_planes(void *kernel, const layer *made, const float *residual, float *y, uint8_t *bits,
                               const bnncc_parallel *parallel, bnncc_error *error) {
    return planes_conv_run(kernel, made->x, (steps_inputs){residual, made->window_sums}, (size_t)made->batch,
                           (size_t)made->height, (size_t)made->out_height, y, bits, parallel, error);
}

/* One form of the kernel against the dot kernel's outputs. */
static void check_form(tally *tally, random_state *random, const layer *made, size_t form, const group_tree *trees) {
    const bnncc_conv_params *p = &made->params;
    planes_plan plan;
    planes_conv *conv = NULL;
    epilogue kept = {0};
    bnncc_error error = {""};
    char name[64];
    snprintf(name, sizeof name, "%s, %d bits", bnncc_isa_name(forms[form].isa), (int)forms[form].lane_bytes * 8);
    const bool serves = planes_plan_create(p, (size_t)made->out_width, forms[form].isa, forms[form].lane_bytes, &plan);
    CHECK(tally, serves || made->length > 1000, "a small layer is refused");
    if (!serves)
        return;
    CHECK(tally, !epilogue_create(&kept, &made->epilogue, (size_t)p->out_channels, forms[form].isa, &error), "%s",
          error.message);
    const bnncc_status status = planes_conv_create(&plan, trees, &kept, &conv, &error);
    CHECK(tally, !status, "%s", error.message);
    if (!status)
        check_layer(tally, random, made, run_planes, conv, name);
    planes_conv_destroy(conv);
    epilogue_destroy(&kept);
}

static bool test_layer(tally *tally, random_state *random) {
    layer made = draw_layer(random, MOST_FILTERS);
    drawn_tree drawn = draw_tree(random, &made);
    const bnncc_filter_tree tree = {drawn.group_nodes, drawn.parents, drawn.count, drawn.flipped};
    const bool fits = run_reference(tally, random, &made);
    const size_t groups = (size_t)made.params.group;
    bnncc_error error = {""};
    group_tree *trees = NULL;
    if (fits) {
        CHECK(tally,
              !group_trees_create(&tree, made.weight, groups, (size_t)made.params.out_channels / groups,
                                  (size_t)made.length, &trees, &error),
              "%s", error.message);
        for (size_t form = 0; trees && form < FORMS; form++)
            if (bnncc_isa_supported(forms[form].isa))
                check_form(tally, random, &made, form, trees);
        group_trees_destroy(trees, groups);
    }
    free(drawn.parents);
    free(drawn.flipped);
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
