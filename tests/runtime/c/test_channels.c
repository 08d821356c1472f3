/* Random layers through the channel kernel on every instruction set, and through the portable dot kernel: every bit and
 * float must be the same, in whatever order the work is done.
 *
 *     test_channels [layers [seed]] */
#include "channels/channels.h"
#include "layers.h"

static bnncc_status run_channels(void *kernel, const layer *made, const float *residual, float *y, uint8_t *bits,
                                 const bnncc_parallel *parallel, bnncc_error *error) {
    return channels_conv_run(kernel, made->x, (steps_inputs){residual, made->window_sums}, (size_t)made->batch,
                             (size_t)made->height, (size_t)made->out_height, y, bits, parallel, error);
}

static void check_isa(tally *tally, random_state *random, const layer *made, bnncc_isa isa) {
    channels_plan plan;
    channels_conv *conv = NULL;
    epilogue kept = {0};
    bnncc_error error = {""};
    const bool serves = channels_plan_create(&made->params, (size_t)made->out_width, isa, &plan);
    CHECK(tally, serves || made->length > 1000, "a small layer is refused");
    if (!serves)
        return;
    CHECK(tally, !epilogue_create(&kept, &made->epilogue, (size_t)made->params.out_channels, isa, &error), "%s",
          error.message);
    const bnncc_status status = channels_conv_create(&plan, made->weight, &kept, &conv, &error);
    CHECK(tally, !status, "%s", error.message);
    if (!status)
        check_layer(tally, random, made, run_channels, conv, bnncc_isa_name(isa));
    channels_conv_destroy(conv);
    epilogue_destroy(&kept);
}

static bool test_layer(tally *tally, random_state *random) {
    const bnncc_isa isas[] = {BNNCC_ISA_PORTABLE, BNNCC_ISA_AVX2, BNNCC_ISA_AVX512BW, BNNCC_ISA_AVX512VPOPCNTDQ};
    layer made = draw_layer(random, random_one_in(random, 10) ? 1100 : 100);
    const bool fits = run_reference(tally, random, &made);
    for (size_t i = 0; fits && i < sizeof isas / sizeof *isas; i++)
        if (bnncc_isa_supported(isas[i]))
            check_isa(tally, random, &made, isas[i]);
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
    channels_plan plan;
    CHECK(tally, channels_plan_create(&small, 18, BNNCC_ISA_PORTABLE, &plan), "a small layer is refused");
    bnncc_conv_params p = small;
    p.in_channels = 1 << 20;
    CHECK(tally, !channels_plan_create(&p, 18, BNNCC_ISA_PORTABLE, &plan), "2^20 channels");
    p = small;
    p.dilations[0] = INT32_MAX;
    CHECK(tally, !channels_plan_create(&p, 18, BNNCC_ISA_PORTABLE, &plan), "a dilation of 2^31 - 1");
    p = small;
    p.width = INT32_MAX;
    CHECK(tally, !channels_plan_create(&p, INT32_MAX - 2, BNNCC_ISA_PORTABLE, &plan), "a width of 2^31 - 1");
    p = small;
    p.out_channels = INT32_MAX;
    CHECK(tally, !channels_plan_create(&p, 18, BNNCC_ISA_PORTABLE, &plan), "2^31 - 1 filters");
    p = small;
    p.group = p.in_channels = p.out_channels = INT32_MAX;
    CHECK(tally, !channels_plan_create(&p, 18, BNNCC_ISA_PORTABLE, &plan), "2^31 - 1 groups");
}

int main(int argc, char **argv) {
    const long layers = argc > 1 ? atol(argv[1]) : 600;
    random_state random = {.state = argc > 2 ? 2 * strtoull(argv[2], NULL, 10) + 1 : 20240611};
    tally tally = {0, 0};
    long run = 0;
    test_refusals(&tally);
    for (long i = 0; i < layers; i++)
        run += test_layer(&tally, &random);
    CHECK(&tally, layers < 10 || run > layers / 2, "%ld layers of %ld are run", run, layers);
    return finish(&tally, "test_channels");
}
