/* The library as a C program meets it: opened at run time, its functions found by name, errors told and not fatal.
 *
 *     test_api PATH_OF_LIBBNNCC */
#define _POSIX_C_SOURCE 200809L
#include "support.h"

#include <dlfcn.h>
#include <string.h>

/* The functions used below, as the header declares them. */
typedef struct library {
    __typeof__(&bnncc_version) version;
    __typeof__(&bnncc_isa_name) isa_name;
    __typeof__(&bnncc_isa_supported) isa_supported;
    __typeof__(&bnncc_isa_resolve) isa_resolve;
    __typeof__(&bnncc_conv_create) conv_create;
    __typeof__(&bnncc_conv_destroy) conv_destroy;
    __typeof__(&bnncc_conv_output_shape) conv_output_shape;
    __typeof__(&bnncc_conv_kernel) conv_kernel;
    __typeof__(&bnncc_conv_run) conv_run;
} library;

static const char *const documented[] = {
    "bnncc_version",        "bnncc_isa_name",          "bnncc_isa_supported",     "bnncc_isa_resolve",
    "bnncc_conv_create",    "bnncc_conv_destroy",      "bnncc_conv_output_shape", "bnncc_conv_kernel",
    "bnncc_conv_run",       "bnncc_linear_create",     "bnncc_linear_destroy",    "bnncc_linear_kernel",
    "bnncc_linear_run",     "bnncc_binarize",          "bnncc_unpack_signs",      "bnncc_pool_output_shape",
    "bnncc_max_pool_signs", "bnncc_hamming_distances", "bnncc_steiner_tree",      "bnncc_virtual_filters",
    "bnncc_tree_schedule",  "RegisterCustomOps",
};

/* Stores the address of a function; C has no cast from an object pointer, which dlsym returns, to a function pointer.
 */
static void find(tally *tally, void *handle, const char *name, void *function) {
    void *address = dlsym(handle, name);
    CHECK(tally, address != NULL, "%s is not in the library", name);
    memcpy(function, &address, sizeof address);
}

/* A 4 x 4 image of +1 and a 3 x 3 filter of +1 count the taps inside; -1 in one corner changes the four outputs near.
 */
static void test_known_answer(tally *tally, const library *lib) {
    const float scale = 0.5f, shift = 1.0f;
    const int32_t threshold = 6;
    const bnncc_epilogue epilogue = {&scale, &shift, 1, 1, &threshold, 1, NULL};
    const bnncc_conv_params params = {.out_channels = 1,
                                      .in_channels = 1,
                                      .group = 1,
                                      .kernel_shape = {3, 3},
                                      .strides = {1, 1},
                                      .dilations = {1, 1},
                                      .pads = {1, 1, 1, 1},
                                      .pad_value = 0,
                                      .width = 4};
    const uint8_t weight[2] = {0xff, 0xff};        /* the bits beyond 9 are to be ignored */
    const uint8_t x[4] = {0xfe, 0xff, 0xff, 0xff}; /* likewise those beyond 4; -1 at row 0, column 0 */
    const int dots[4][4] = {{2, 4, 6, 4}, {4, 7, 9, 6}, {6, 9, 9, 6}, {4, 6, 6, 4}};
    float y[16];
    uint8_t bits[4];
    int64_t out_height = 0, out_width = 0;
    bnncc_conv *conv = NULL;
    bnncc_error error = {""};
    CHECK(tally, !lib->conv_create(&params, weight, sizeof weight, &epilogue, NULL, BNNCC_ISA_AUTO, &conv, &error),
          "%s", error.message);
    if (!conv)
        return;
    CHECK(tally, strncmp(lib->conv_kernel(conv), "dot/", 4) == 0, "kernel %s", lib->conv_kernel(conv));
    CHECK(tally, !lib->conv_output_shape(conv, 4, &out_height, &out_width, &error), "%s", error.message);
    CHECK(tally, out_height == 4 && out_width == 4, "%d x %d", (int)out_height, (int)out_width);
    CHECK(tally, !lib->conv_run(conv, x, NULL, 1, 4, y, bits, NULL, &error), "%s", error.message);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            CHECK(tally, y[i * 4 + j] == (float)dots[i][j] * 0.5f + 1.0f, "row %d, column %d: %g", i, j,
                  (double)y[i * 4 + j]);
            CHECK(tally, (sign_at(&bits[i], j) > 0) == (dots[i][j] >= 6), "row %d, column %d", i, j);
        }
        CHECK(tally, bits[i] >> 4 == 0, "unused bits are %d", bits[i] >> 4);
    }
    CHECK(tally, !lib->conv_run(conv, NULL, NULL, 0, 4, NULL, NULL, NULL, &error), "an empty batch: %s", error.message);
    CHECK(tally, lib->conv_run(conv, x, NULL, 1, 4, NULL, bits, NULL, &error) == BNNCC_INVALID_ARGUMENT,
          "y is missing");
    CHECK(tally, lib->conv_run(conv, x, NULL, 1, 0, y, bits, NULL, &error) == BNNCC_INVALID_ARGUMENT, "height is 0");
    CHECK(tally, lib->conv_run(conv, x, NULL, -1, 4, y, bits, NULL, NULL) == BNNCC_INVALID_ARGUMENT, "batch is -1");
    lib->conv_destroy(conv);
    lib->conv_destroy(NULL);
}

/* Each of these is refused with a message, whatever else would be right. */
static void test_refusals(tally *tally, const library *lib) {
    const float scale[2] = {1, 1}, shift[2] = {0, 0};
    const bnncc_epilogue good_epilogue = {scale, shift, 1, 1, NULL, 0, NULL};
    const bnncc_conv_params good = {.out_channels = 4,
                                    .in_channels = 4,
                                    .group = 2,
                                    .kernel_shape = {1, 1},
                                    .strides = {1, 1},
                                    .dilations = {1, 1},
                                    .pads = {0, 0, 0, 0},
                                    .pad_value = 0,
                                    .width = 4};
    const uint8_t weight[8] = {0};
    enum { CASES = 19 };
    bnncc_conv_params params[CASES];
    bnncc_epilogue epilogues[CASES];
    size_t sizes[CASES];
    for (int i = 0; i < CASES; i++) {
        params[i] = good;
        epilogues[i] = good_epilogue;
        sizes[i] = 4;
    }
    params[0].out_channels = 0;
    params[1].in_channels = -4;
    params[2].group = 0;
    params[3].group = 3;
    params[4].kernel_shape[0] = 0;
    params[5].kernel_shape[1] = INT64_MAX;
    params[6].strides[0] = 0;
    params[7].dilations[1] = -1;
    params[8].pads[0] = -1;
    params[9].pads[3] = INT64_MAX;
    params[10].pad_value = 2;
    params[11].width = 0;
    params[12].kernel_shape[1] = 5;
    params[13].in_channels = params[13].out_channels = INT64_C(1) << 31;
    sizes[14] = 3;
    sizes[15] = 5;
    epilogues[16].scale_count = 2;
    epilogues[17].shift = NULL;
    epilogues[18].scale = epilogues[18].shift = NULL;
    for (int i = 0; i < CASES; i++) {
        bnncc_conv *conv = NULL;
        bnncc_error error = {""};
        const bnncc_status status =
            lib->conv_create(&params[i], weight, sizes[i], &epilogues[i], NULL, BNNCC_ISA_PORTABLE, &conv, &error);
        CHECK(tally, status == BNNCC_INVALID_ARGUMENT && error.message[0], "case %d: status %d", i, (int)status);
        CHECK(tally, conv == NULL, "case %d gives an object", i);
    }
}

static void test_instruction_sets(tally *tally, const library *lib) {
    bnncc_isa isa = BNNCC_ISA_AUTO;
    bnncc_error error = {""};
    unsetenv("BNNCC_ISA");
    CHECK(tally, !lib->isa_resolve(BNNCC_ISA_AUTO, &isa, &error) && isa != BNNCC_ISA_AUTO, "%s", error.message);
    for (int best = isa + 1; best <= BNNCC_ISA_AVX512VPOPCNTDQ; best++)
        CHECK(tally, !lib->isa_supported((bnncc_isa)best), "%s is better", lib->isa_name((bnncc_isa)best));
    for (int i = BNNCC_ISA_PORTABLE; i <= BNNCC_ISA_AVX512VPOPCNTDQ; i++) {
        const bnncc_status expected = lib->isa_supported((bnncc_isa)i) ? BNNCC_OK : BNNCC_UNSUPPORTED;
        CHECK(tally, lib->isa_resolve((bnncc_isa)i, &isa, &error) == expected, "%s", lib->isa_name((bnncc_isa)i));
        setenv("BNNCC_ISA", lib->isa_name((bnncc_isa)i), 1);
        CHECK(tally, lib->isa_resolve(BNNCC_ISA_AUTO, &isa, &error) == expected, "%s", lib->isa_name((bnncc_isa)i));
        CHECK(tally, expected || isa == (bnncc_isa)i, "BNNCC_ISA is ignored: %d", (int)isa);
    }
    setenv("BNNCC_ISA", "sse9", 1);
    CHECK(tally, lib->isa_resolve(BNNCC_ISA_AUTO, &isa, &error) == BNNCC_INVALID_ARGUMENT, "sse9 is accepted");
    CHECK(tally, strstr(error.message, "sse9") != NULL, "%s", error.message);
    unsetenv("BNNCC_ISA");
    CHECK(tally, lib->isa_resolve((bnncc_isa)77, &isa, &error) == BNNCC_INVALID_ARGUMENT, "77 is accepted");
    CHECK(tally, lib->isa_name((bnncc_isa)77) == NULL, "77 has a name");
}

int main(int argc, char **argv) {
    tally tally = {0, 0};
    if (argc != 2) {
        fprintf(stderr, "usage: %s PATH_OF_LIBBNNCC\n", argv[0]);
        return 2;
    }
    void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    for (size_t i = 0; i < sizeof documented / sizeof documented[0]; i++)
        CHECK(&tally, dlsym(handle, documented[i]) != NULL, "%s is not in the library", documented[i]);
    CHECK(&tally, dlsym(handle, "transpose_64x64") == NULL, "an internal function is visible");
    library lib;
    find(&tally, handle, "bnncc_version", &lib.version);
    find(&tally, handle, "bnncc_isa_name", &lib.isa_name);
    find(&tally, handle, "bnncc_isa_supported", &lib.isa_supported);
    find(&tally, handle, "bnncc_isa_resolve", &lib.isa_resolve);
    find(&tally, handle, "bnncc_conv_create", &lib.conv_create);
    find(&tally, handle, "bnncc_conv_destroy", &lib.conv_destroy);
    find(&tally, handle, "bnncc_conv_output_shape", &lib.conv_output_shape);
    find(&tally, handle, "bnncc_conv_kernel", &lib.conv_kernel);
    find(&tally, handle, "bnncc_conv_run", &lib.conv_run);
    if (tally.failures == 0) {
        CHECK(&tally, lib.version()[0] >= '0' && lib.version()[0] <= '9', "version \"%s\"", lib.version());
        test_known_answer(&tally, &lib);
        test_refusals(&tally, &lib);
        test_instruction_sets(&tally, &lib);
    }
    dlclose(handle);
    return finish(&tally, "test_api");
}
