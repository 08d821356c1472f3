/* Without memory: whichever allocation fails, the answer is BNNCC_OUT_OF_MEMORY and nothing is left allocated.
 *
 * To be linked with the library's objects and -Wl,--wrap=posix_memalign,--wrap=free, so that the library's calls (it
 * allocates in one place only) come here. */
#include "scratch.h"
#include "support.h"
#include "tree/tree.h"

#include <errno.h>

static long live;          /* allocated and not freed */
static long until_failure; /* allocations that still succeed */

int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void __real_free(void *memory);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
void __wrap_free(void *memory);

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
    if (until_failure-- <= 0)
        return ENOMEM;
    const int status = __real_posix_memalign(memory, alignment, size);
    live += status == 0;
    return status;
}

void __wrap_free(void *memory) {
    live -= memory != NULL;
    __real_free(memory);
}

static const float scale = 1, shift = 0;
static const int32_t threshold[2] = {0, 0};
static const bnncc_epilogue epilogue = {&scale, &shift, 1, 1, threshold, 2, NULL};
static uint8_t data[64], bits[64];
static float y[256];

static const int64_t group_nodes[1] = {4};
static const int32_t parents[4] = {2, 3, -1, 2};
static const bnncc_filter_tree tree = {group_nodes, parents, 4, data}; /* neither filter is complemented */

static const int32_t step_kinds[3] = {BNNCC_STEP_RESIDUAL, BNNCC_STEP_PRELU, BNNCC_STEP_WINDOW_SUM};
static const float operands[3] = {0, 1, 2}, sign_threshold = 0;
static const int8_t sign_direction = 1;
static const bnncc_steps steps = {step_kinds, 3, operands, 1, &sign_threshold, 1, &sign_direction, 1, 0};
static const bnncc_epilogue epilogue_of_steps = {&scale, &shift, 1, 1, NULL, 0, &steps};

static bnncc_status use_conv_of(const bnncc_epilogue *epilogue, const float *residual, bnncc_error *error) {
    const bnncc_conv_params params = {.out_channels = 2,
                                      .in_channels = 2,
                                      .group = 1,
                                      .kernel_shape = {3, 3},
                                      .strides = {1, 1},
                                      .dilations = {1, 1},
                                      .pads = {1, 1, 1, 1},
                                      .pad_value = 0,
                                      .width = 5};
    bnncc_conv *conv = NULL;
    const bnncc_conv_hints hints = {.tree = &tree};
    bnncc_status status = bnncc_conv_create(&params, data, 6, epilogue, &hints, BNNCC_ISA_AUTO, &conv, error);
    if (!status)
        status = bnncc_conv_run(conv, data, residual, 1, 5, y, bits, NULL, error);
    bnncc_conv_destroy(conv);
    return status;
}

static bnncc_status use_conv(bnncc_error *error) { return use_conv_of(&epilogue, NULL, error); }

static bnncc_status use_steps(bnncc_error *error) { return use_conv_of(&epilogue_of_steps, y, error); }

static bnncc_status use_linear(bnncc_error *error) {
    const bnncc_linear_params params = {.out_features = 2, .rows = 2, .width = 5};
    bnncc_linear *linear = NULL;
    bnncc_status status = bnncc_linear_create(&params, data, 4, &epilogue, BNNCC_ISA_AUTO, &linear, error);
    if (!status)
        status = bnncc_linear_run(linear, data, 1, y, bits, NULL, error);
    bnncc_linear_destroy(linear);
    return status;
}

static bnncc_status use_pool(bnncc_error *error) {
    const int8_t direction = 1;
    const bnncc_pool_params params = {.channels = 1,
                                      .height = 2,
                                      .width = 70, /* rows of several words need room, narrow ones do not */
                                      .kernel_shape = {2, 2},
                                      .strides = {2, 2},
                                      .dilations = {1, 1},
                                      .direction = &direction,
                                      .direction_count = 1};
    return bnncc_max_pool_signs(&params, data, 1, bits, NULL, error);
}

static bnncc_status use_group_trees(bnncc_error *error) {
    group_tree *trees = NULL;
    const bnncc_status status = group_trees_create(&tree, data, 1, 2, 18, &trees, error);
    group_trees_destroy(trees, 1);
    return status;
}

static bnncc_status use_search(bnncc_error *error) {
    const bnncc_steiner_params params = {.count = 3, .length = 18, .complement = 1, .sweeps = 1};
    int32_t found[4], distances[9];
    uint8_t flipped[3];
    int64_t total = 0;
    const bnncc_status status = bnncc_hamming_distances(data, 3, data, 3, 18, distances, BNNCC_ISA_AUTO, error);
    return status ? status : bnncc_steiner_tree(&params, data, found, flipped, &total, BNNCC_ISA_AUTO, error);
}

int main(void) {
    tally tally = {0, 0};
    bnncc_status (*const uses[])(bnncc_error *) = {use_conv, use_steps,       use_linear,
                                                   use_pool, use_group_trees, use_search};
    for (size_t use = 0; use < sizeof uses / sizeof uses[0]; use++) {
        bnncc_status status = BNNCC_OUT_OF_MEMORY;
        long allowed = 0;
        for (; status != BNNCC_OK && allowed < 1000; allowed++) {
            bnncc_error error = {""};
            until_failure = allowed;
            status = uses[use](&error);
            scratch_free_kept();
            CHECK(&tally, status == BNNCC_OK || (status == BNNCC_OUT_OF_MEMORY && error.message[0]),
                  "use %zu with %ld allocations: status %d", use, allowed, (int)status);
            CHECK(&tally, live == 0, "use %zu with %ld allocations leaves %ld", use, allowed, live);
        }
        CHECK(&tally, status == BNNCC_OK && allowed > 1, "use %zu never ran out of memory, or always", use);
    }
    return finish(&tally, "test_memory");
}
