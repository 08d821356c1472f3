/* Wrong, wild and damaged arguments: whatever comes, the library answers with a status. Made to be built with
 * -fsanitize=address,undefined, every buffer having exactly the size that the header asks for.
 *
 * Each round takes a small valid layer and damages some of its numbers, pointers and sizes. What is then still legal is
 * run where that is small work; where the tensors' sizes exceed the address space a run must refuse them; a legal
 * layer that is merely enormous is created, where its weights are as small as its buffer, and not run.
 *
 *     fuzz [rounds [seed]] */
#include "support.h"

#include <string.h>

__extension__ typedef __int128 wide; /* products of a few 64-bit numbers, some wrapped in checks of their range */

static const wide small_work = 2000000;
enum { SMALL_BYTES = 1 << 16, SMALL_COUNT = 1 << 16 };

/* ---- Damage ---- */

static int64_t wild_number(random_state *random) {
    const int64_t wild[] = {0,
                            -1,
                            -2,
                            INT64_MIN,
                            INT64_MAX,
                            INT32_MAX,
                            INT32_MIN,
                            INT64_C(1) << 31,
                            INT64_C(1) << 32,
                            INT64_C(1) << 62,
                            1 << 24,
                            (1 << 24) + 1,
                            65536,
                            4096};
    if (random_one_in(random, 3))
        return random_between(random, 0, 20);
    return wild[random_between(random, 0, (int64_t)(sizeof wild / sizeof wild[0]) - 1)];
}

/* Damages some of `count` numbers, most often none or one. */
static void damage_numbers(random_state *random, int64_t *numbers, int64_t count) {
    for (int64_t hits = random_between(random, 0, 3); hits > 1; hits--)
        numbers[random_between(random, 0, count - 1)] = wild_number(random);
}

/* How many values to announce for an array that should have `right`. An array of that many is really given, but for
 * counts that exceed every dimension there can be. */
static size_t damage_count(random_state *random, size_t right) {
    const size_t wrong[] = {0, 1, right + 1, right - 1, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 4 + 1};
    if (right > SMALL_COUNT)
        right = SMALL_COUNT; /* wrong, that is */
    if (!random_one_in(random, 8))
        return random_one_in(random, 3) ? 1 : right;
    const size_t count = wrong[random_between(random, 0, 6)];
    return count <= SMALL_COUNT || count > SIZE_MAX / 8 ? count : 0;
}

/* The values that an array announced with `count` has. */
static size_t given(size_t count) { return count <= SMALL_COUNT ? count : 1; }

static void *array_of(random_state *random, size_t count, size_t size) {
    return random_bytes(random, given(count) * size);
}

static bool in_range(const int64_t *numbers, int count, int64_t low) {
    for (int i = 0; i < count; i++)
        if (numbers[i] < low || numbers[i] > INT32_MAX)
            return false;
    return true;
}

static size_t bytes_of(int64_t bits) { return bits <= 0 ? 0 : (size_t)bits / 8 + (bits % 8 != 0); }

static bnncc_isa random_isa(random_state *random) { return (bnncc_isa)random_between(random, -1, 6); }

static void run_backwards(void *context, void (*task)(void *, size_t), void *argument, size_t count) {
    (void)context;
    while (count-- > 0)
        task(argument, count);
}

static const bnncc_parallel backwards = {run_backwards, NULL, 0};

/* A legal status, with a message where it is not OK. */
static bool check_status(tally *tally, bnncc_status status, bnncc_error *error) {
    CHECK(tally, status >= BNNCC_OK && status <= BNNCC_UNSUPPORTED, "status %d", (int)status);
    CHECK(tally, status == BNNCC_OK || memchr(error->message, 0, sizeof error->message) > (void *)error->message,
          "status %d without a message", (int)status);
    error->message[0] = 0;
    return status == BNNCC_OK;
}

/* ---- Epilogues ---- */

/* Steps in one piece with what they point to, but for the arrays. */
typedef struct damaged_steps {
    bnncc_steps steps;
    int32_t kinds[BNNCC_STEP_LIMIT + 2];
} damaged_steps;

static bnncc_steps *make_steps(random_state *random, size_t right) {
    damaged_steps *made = must_allocate(sizeof *made);
    const size_t wild_counts[] = {0, BNNCC_STEP_LIMIT + 1, SIZE_MAX};
    const size_t count =
        random_one_in(random, 20) ? wild_counts[random_between(random, 0, 2)] : (size_t)random_between(random, 1, 4);
    for (size_t i = 0; i < BNNCC_STEP_LIMIT + 2; i++)
        made->kinds[i] = (int32_t)random_between(random, random_one_in(random, 20) ? -1 : 0,
                                                 BNNCC_STEP_WINDOW_SUM + random_one_in(random, 20));
    const size_t values = damage_count(random, right);
    made->steps = (bnncc_steps){
        .kinds = random_one_in(random, 30) ? NULL : made->kinds,
        .count = count,
        .operands = array_of(random, (count <= BNNCC_STEP_LIMIT ? count : 1) * given(values), sizeof(float)),
        .operand_count = values,
    };
    if (random_one_in(random, 2)) {
        made->steps.threshold_count = damage_count(random, right);
        made->steps.direction_count = damage_count(random, right);
        made->steps.threshold = array_of(random, made->steps.threshold_count, sizeof(float));
        int8_t *direction = array_of(random, made->steps.direction_count, 1);
        for (size_t i = 0; i < given(made->steps.direction_count); i++)
            direction[i] = random_one_in(random, 200) ? 0 : direction[i] < 0 ? -1 : 1;
        made->steps.direction = direction;
    }
    return &made->steps;
}

static void free_steps(const bnncc_steps *steps) {
    if (!steps)
        return;
    free((void *)steps->operands);
    free((void *)steps->threshold);
    free((void *)steps->direction);
    free((void *)steps);
}

static bool adds_residual(const bnncc_steps *steps) {
    for (size_t i = 0; steps && i < steps->count; i++)
        if (steps->kinds[i] == BNNCC_STEP_RESIDUAL)
            return true;
    return false;
}

static bnncc_epilogue make_epilogue(random_state *random, int64_t channels) {
    const size_t right = channels > 0 ? (size_t)channels : 1;
    bnncc_epilogue epilogue = {0};
    if (!random_one_in(random, 3)) {
        epilogue.scale_count = damage_count(random, right);
        epilogue.shift_count = damage_count(random, right);
        epilogue.scale = array_of(random, epilogue.scale_count, sizeof(float));
        epilogue.shift = random_one_in(random, 30) ? NULL : array_of(random, epilogue.shift_count, sizeof(float));
    }
    if (random_one_in(random, 3))
        epilogue.steps = make_steps(random, right);
    if (epilogue.steps ? random_one_in(random, 20) : !random_one_in(random, 3)) {
        epilogue.threshold_count = random_one_in(random, 8) ? damage_count(random, right)
                                   : right <= SMALL_COUNT   ? right
                                                            : 1;
        epilogue.threshold = array_of(random, epilogue.threshold_count, sizeof(int32_t));
    }
    return epilogue;
}

static void free_epilogue(bnncc_epilogue *epilogue) {
    free((void *)epilogue->scale);
    free((void *)epilogue->shift);
    free((void *)epilogue->threshold);
    free_steps(epilogue->steps);
}

/* A weight buffer of the right size, where that is small, or another. */
static uint8_t *make_weight(random_state *random, wide right, size_t *size) {
    *size = right >= 0 && right <= SMALL_BYTES ? (size_t)right : (size_t)random_between(random, 0, 64);
    if (random_one_in(random, 12))
        *size = (size_t)random_between(random, 0, (int64_t)*size + 8);
    return random_bytes(random, *size);
}

/* ---- Trees ---- */

/* A filter tree with as many parents and flags as it announces, most often wrong somewhere; its arrays are to be freed.
 */
static bnncc_filter_tree make_tree(random_state *random, int64_t channels, int64_t groups) {
    const size_t most = 1024, flags = channels > 0 && channels <= SMALL_COUNT ? (size_t)channels : 1;
    const size_t count = groups > 0 && groups <= SMALL_COUNT ? (size_t)groups : 1, filters = flags / count;
    int64_t *group_nodes = must_allocate(count * sizeof *group_nodes);
    bnncc_filter_tree tree = {.group_nodes = group_nodes};
    for (size_t group = 0; group < count; group++) {
        group_nodes[group] = (int64_t)filters + random_between(random, 0, 3);
        if (tree.node_count + (size_t)group_nodes[group] <= most)
            tree.node_count += (size_t)group_nodes[group];
        if (random_one_in(random, 30))
            group_nodes[group] = wild_number(random);
    }
    int32_t *parents = must_allocate(tree.node_count * sizeof *parents);
    for (size_t i = 0; i < tree.node_count; i++)
        parents[i] = random_one_in(random, 100) ? (int32_t)wild_number(random)
                                                : (int32_t)random_between(random, -1, (int64_t)(i % (filters + 1)) - 1);
    uint8_t *flipped = random_bytes(random, flags);
    if (!random_one_in(random, 4))
        for (size_t i = 0; i < flags; i++)
            flipped[i] &= 1;
    tree.parents = parents;
    tree.flipped = flipped;
    return tree;
}

static void free_tree(bnncc_filter_tree *tree) {
    free((void *)tree->group_nodes);
    free((void *)tree->parents);
    free((void *)tree->flipped);
}

/* ---- The operations ---- */

/* The tree functions on a few filters: damaged numbers, wild parents and pointers that are NULL. */
static void fuzz_trees(tally *tally, random_state *random) {
    enum { FILTERS = 9, BITS = 130, NODES = 2 * FILTERS };
    int64_t n[4] = {random_between(random, 1, FILTERS), random_between(random, 1, BITS), 0, 0};
    n[2] = n[0] + random_between(random, 0, FILTERS); /* nodes */
    damage_numbers(random, n, 3);
    const bool small = n[0] <= FILTERS && n[1] <= BITS && n[2] <= NODES;
    uint8_t *filters = random_bytes(random, FILTERS * bytes_of(BITS)), *flipped = random_bytes(random, FILTERS);
    uint8_t *bits = must_allocate(NODES * bytes_of(BITS));
    int32_t *parents = must_allocate(NODES * sizeof *parents), *order = must_allocate(NODES * sizeof *order);
    int32_t *slots = must_allocate(NODES * sizeof *slots), *distances = must_allocate(FILTERS * FILTERS * 4);
    for (int32_t i = 0; i < NODES; i++)
        parents[i] =
            random_one_in(random, 30) ? (int32_t)wild_number(random) : (int32_t)random_between(random, -1, i - 1);
    int32_t slot_count = 0;
    int64_t total = 0;
    bnncc_error error = {""};
    /* What is legal but has more bits or nodes than the buffers is not asked for. */
    if (small || n[0] > SMALL_COUNT || n[1] > 1 << 24 || n[0] < 1 || n[1] < 1) {
        const bool huge = n[0] > SMALL_COUNT && n[0] <= INT32_MAX && n[1] > 0 && n[1] <= 1 << 24;
        if (!huge) {
            check_status(tally,
                         bnncc_hamming_distances(random_one_in(random, 30) ? NULL : filters, n[0], filters, n[0], n[1],
                                                 random_one_in(random, 30) ? NULL : distances, random_isa(random),
                                                 &error),
                         &error);
            const bnncc_steiner_params params = {n[0], n[1], (int32_t)random_between(random, -1, 2),
                                                 (int32_t)random_between(random, -1, 4)};
            check_status(tally,
                         bnncc_steiner_tree(random_one_in(random, 30) ? NULL : &params,
                                            random_one_in(random, 30) ? NULL : filters, parents, flipped, &total,
                                            random_isa(random), &error),
                         &error);
        }
    }
    for (int32_t i = 0; i < NODES; i++)
        parents[i] =
            random_one_in(random, 60) ? (int32_t)wild_number(random) : (int32_t)random_between(random, -1, i - 1);
    if (small) {
        check_status(tally,
                     bnncc_virtual_filters(random_one_in(random, 30) ? NULL : filters, n[0], n[1], parents,
                                           random_one_in(random, 30) ? NULL : flipped, n[2],
                                           (int)random_between(random, -1, 2), bits, &error),
                     &error);
        check_status(tally,
                     bnncc_tree_schedule(random_one_in(random, 30) ? NULL : parents, n[2], order, slots,
                                         random_one_in(random, 30) ? NULL : &slot_count, &error),
                     &error);
    }
    free(filters);
    free(flipped);
    free(bits);
    free(parents);
    free(order);
    free(slots);
    free(distances);
}

static void fuzz_conv(tally *tally, random_state *random) {
    int64_t group = random_between(random, 1, 3), n[18];
    n[0] = group * random_between(random, 1, 70); /* out_channels */
    n[1] = group * random_between(random, 1, 70); /* in_channels */
    n[2] = group;
    for (int axis = 0; axis < 2; axis++) {
        n[3 + axis] = random_between(random, 1, 4);  /* kernel */
        n[5 + axis] = random_between(random, 1, 3);  /* strides */
        n[7 + axis] = random_between(random, 1, 2);  /* dilations */
        n[9 + axis] = random_between(random, 0, 4);  /* pads before */
        n[11 + axis] = random_between(random, 0, 4); /* pads after */
    }
    n[13] = random_between(random, -1, 1); /* pad_value */
    n[14] = random_between(random, 1, 20); /* width */
    n[15] = random_between(random, 0, 3);  /* batch */
    n[16] = random_between(random, 1, 9);  /* height */
    damage_numbers(random, n, 17);
    const bnncc_conv_params p = {.out_channels = n[0],
                                 .in_channels = n[1],
                                 .group = n[2],
                                 .kernel_shape = {n[3], n[4]},
                                 .strides = {n[5], n[6]},
                                 .dilations = {n[7], n[8]},
                                 .pads = {n[9], n[10], n[11], n[12]},
                                 .pad_value = n[13],
                                 .width = n[14]};
    wide length = -1, weight_bytes = -1;
    if (in_range(n, 9, 1)) {
        length = (wide)(n[1] / n[2]) * n[3] * n[4];
        weight_bytes = length <= 1 << 24 ? n[0] * ((length + 7) / 8) : -1;
    }
    size_t weight_size = 0;
    uint8_t *weight = make_weight(random, weight_bytes, &weight_size);
    bnncc_epilogue epilogue = make_epilogue(random, n[0]);
    bnncc_filter_tree tree = make_tree(random, n[0], n[2]);
    bnncc_error error = {""};
    bnncc_conv *conv = NULL;
    int64_t out_height = 0, out_width = 0;
    const char *const kernels[] = {NULL, NULL, "auto", "dot", "planes", "planes 256", "channels", "channels 512", "no"};
    const bnncc_conv_hints hints = {.tree = random_one_in(random, 2) ? NULL : &tree,
                                    .kernel = kernels[random_between(random, 0, 8)]};
    const bnncc_status status =
        bnncc_conv_create(random_one_in(random, 60) ? NULL : &p, random_one_in(random, 60) ? NULL : weight, weight_size,
                          random_one_in(random, 60) ? NULL : &epilogue, random_one_in(random, 60) ? NULL : &hints,
                          random_isa(random), random_one_in(random, 60) ? NULL : &conv, &error);
    if (check_status(tally, status, &error) && conv) {
        CHECK(tally, length > 0 && (wide)weight_size == weight_bytes, "a layer that cannot be is accepted");
        if (check_status(tally, bnncc_conv_output_shape(conv, n[16], &out_height, &out_width, &error), &error)) {
            const wide images = n[15] < 0 || n[15] > INT32_MAX ? 0 : n[15];
            const wide x_bytes = images * n[1] * n[16] * (wide)bytes_of(n[14]);
            const wide outputs = images * n[0] * out_height * out_width;
            const bool small = outputs * length < small_work && x_bytes < SMALL_BYTES && outputs < SMALL_COUNT &&
                               images * n[16] * n[14] * n[1] < small_work;
            if (small || outputs * 4 > (wide)SIZE_MAX) {
                uint8_t *x = random_bytes(random, small ? (size_t)x_bytes : 1);
                float *y = epilogue.scale ? must_allocate(small ? (size_t)outputs * sizeof(float) : 1) : NULL;
                const size_t rows = (size_t)(images * n[0] * out_height);
                const bool gives_bits = epilogue.threshold || (epilogue.steps && epilogue.steps->threshold);
                uint8_t *bits = gives_bits ? must_allocate(small ? rows * bytes_of(out_width) : 1) : NULL;
                float *residual = adds_residual(epilogue.steps) != random_one_in(random, 30)
                                      ? array_of(random, small ? (size_t)outputs : 1, sizeof(float))
                                      : NULL;
                const bnncc_status ran = bnncc_conv_run(conv, random_one_in(random, 30) ? NULL : x, residual, n[15],
                                                        n[16], random_one_in(random, 30) ? NULL : y, bits,
                                                        random_one_in(random, 2) ? &backwards : NULL, &error);
                check_status(tally, ran, &error);
                CHECK(tally, small || ran, "a size that cannot be is accepted");
                free(x);
                free(y);
                free(bits);
                free(residual);
            }
        }
    }
    bnncc_conv_destroy(conv);
    free(weight);
    free_epilogue(&epilogue);
    free_tree(&tree);
}

static void fuzz_linear(tally *tally, random_state *random) {
    int64_t n[4] = {random_between(random, 1, 90), random_between(random, 1, 9), random_between(random, 1, 90),
                    random_between(random, 0, 9)};
    damage_numbers(random, n, 4);
    const bnncc_linear_params p = {n[0], n[1], n[2]};
    const wide length = in_range(n, 3, 1) ? (wide)n[1] * n[2] : -1;
    const wide weight_bytes = length > 0 && length <= 1 << 24 ? n[0] * ((length + 7) / 8) : -1;
    size_t weight_size = 0;
    uint8_t *weight = make_weight(random, weight_bytes, &weight_size);
    bnncc_epilogue epilogue = make_epilogue(random, n[0]);
    bnncc_error error = {""};
    bnncc_linear *linear = NULL;
    const bnncc_status status =
        bnncc_linear_create(random_one_in(random, 60) ? NULL : &p, random_one_in(random, 60) ? NULL : weight,
                            weight_size, random_one_in(random, 60) ? NULL : &epilogue, random_isa(random),
                            random_one_in(random, 60) ? NULL : &linear, &error);
    if (check_status(tally, status, &error) && linear) {
        const wide samples = n[3] < 0 || n[3] > INT32_MAX ? 0 : n[3];
        const wide x_bytes = samples * n[1] * (wide)bytes_of(n[2]);
        CHECK(tally, length > 0 && (wide)weight_size == weight_bytes, "a layer that cannot be is accepted");
        if (samples * n[0] * length < small_work && samples * n[0] < SMALL_COUNT && x_bytes < SMALL_BYTES) {
            uint8_t *x = random_bytes(random, (size_t)x_bytes);
            float *y = epilogue.scale ? must_allocate((size_t)(samples * n[0]) * sizeof(float)) : NULL;
            uint8_t *bits = epilogue.threshold ? must_allocate((size_t)samples * bytes_of(n[0])) : NULL;
            check_status(tally,
                         bnncc_linear_run(linear, random_one_in(random, 30) ? NULL : x, n[3], y,
                                          random_one_in(random, 30) ? NULL : bits,
                                          random_one_in(random, 2) ? &backwards : NULL, &error),
                         &error);
            free(x);
            free(y);
            free(bits);
        }
    }
    bnncc_linear_destroy(linear);
    free(weight);
    free_epilogue(&epilogue);
}

static void fuzz_binarize(tally *tally, random_state *random) {
    int64_t n[4] = {random_between(random, 1, 9), random_between(random, 1, 9), random_between(random, 1, 90),
                    random_between(random, 0, 3)};
    damage_numbers(random, n, 4);
    bnncc_binarize_params p = {.channels = n[0], .rows = n[1], .width = n[2]};
    p.per_feature = random_one_in(random, 3);
    p.nan_bit = (int)random_between(random, -1, 2);
    const int64_t right = p.per_feature ? n[2] : n[0];
    p.threshold_count = damage_count(random, right > 0 ? (size_t)right : 1);
    p.direction_count = damage_count(random, right > 0 ? (size_t)right : 1);
    float *threshold = array_of(random, p.threshold_count, sizeof *threshold);
    int8_t *direction = array_of(random, p.direction_count, 1);
    /* Else random bytes, few of which are 1 or -1, and thresholds may be NaN. */
    if (!random_one_in(random, 8)) {
        for (size_t i = 0; i < given(p.threshold_count); i++)
            threshold[i] = random_float(random);
        for (size_t i = 0; i < given(p.direction_count); i++)
            direction[i] = random_one_in(random, 2) ? 1 : -1;
    }
    p.threshold = random_one_in(random, 60) ? NULL : threshold;
    p.direction = random_one_in(random, 60) ? NULL : direction;
    const wide values = in_range(n, 3, 1) && n[3] >= 0 && n[3] <= INT32_MAX ? (wide)n[0] * n[1] * n[2] * n[3] : 0;
    /* An announced count is only believed where it is right, and then it is small (see damage_count). */
    if (values * 4 < SMALL_BYTES || values * 4 > (wide)SIZE_MAX) {
        const bool small = values * 4 < SMALL_BYTES;
        float *x = (float *)random_bytes(random, small ? (size_t)values * sizeof(float) : 1);
        uint8_t *bits = must_allocate(small && values ? (size_t)(n[0] * n[1] * n[3]) * bytes_of(n[2]) : 1);
        bnncc_error error = {""};
        const bnncc_status ran =
            bnncc_binarize(random_one_in(random, 60) ? NULL : &p, random_one_in(random, 30) ? NULL : x, n[3],
                           random_one_in(random, 30) ? NULL : bits, random_isa(random),
                           random_one_in(random, 2) ? &backwards : NULL, &error);
        check_status(tally, ran, &error);
        CHECK(tally, small || ran, "a size that cannot be is accepted");
        free(x);
        free(bits);
    }
    free(threshold);
    free(direction);
}

static void fuzz_unpack(tally *tally, random_state *random) {
    int64_t n[2] = {random_between(random, 0, 9), random_between(random, 1, 90)};
    damage_numbers(random, n, 2);
    const wide values = n[0] >= 0 && n[1] > 0 && n[1] <= INT32_MAX ? (wide)n[0] * n[1] : 0;
    const bool small = values * 4 < SMALL_BYTES;
    if (!small && values * 4 <= (wide)SIZE_MAX)
        return;
    uint8_t *bits = random_bytes(random, small && values ? (size_t)n[0] * bytes_of(n[1]) : 1);
    float *y = must_allocate(small ? (size_t)values * sizeof(float) : 1);
    bnncc_error error = {""};
    const bnncc_status ran =
        bnncc_unpack_signs(random_one_in(random, 30) ? NULL : bits, n[0], n[1], random_one_in(random, 30) ? NULL : y,
                           random_one_in(random, 2) ? &backwards : NULL, &error);
    check_status(tally, ran, &error);
    CHECK(tally, small || ran, "a size that cannot be is accepted");
    free(bits);
    free(y);
}

static void fuzz_pool(tally *tally, random_state *random) {
    int64_t n[14];
    for (int i = 0; i < 3; i++)
        n[i] = random_between(random, 1, i == 2 ? 140 : 9); /* channels, height, width */
    for (int axis = 0; axis < 2; axis++) {
        n[3 + axis] = random_between(random, 1, 4);                /* kernel */
        n[5 + axis] = random_between(random, 1, 3);                /* strides */
        n[7 + axis] = random_between(random, 1, 2);                /* dilations */
        n[9 + axis] = random_between(random, 0, n[3 + axis] - 1);  /* pads before */
        n[11 + axis] = random_between(random, 0, n[3 + axis] - 1); /* pads after */
    }
    n[13] = random_between(random, 0, 3); /* batch */
    damage_numbers(random, n, 14);
    bnncc_pool_params p = {.channels = n[0],
                           .height = n[1],
                           .width = n[2],
                           .kernel_shape = {n[3], n[4]},
                           .strides = {n[5], n[6]},
                           .dilations = {n[7], n[8]},
                           .pads = {n[9], n[10], n[11], n[12]},
                           .ceil_mode = (int)random_between(random, 0, 1)};
    p.direction_count = damage_count(random, n[0] > 0 ? (size_t)n[0] : 1);
    int8_t *direction = array_of(random, p.direction_count, 1);
    if (!random_one_in(random, 8))
        for (size_t i = 0; i < given(p.direction_count); i++)
            direction[i] = random_one_in(random, 2) ? 1 : -1;
    p.direction = random_one_in(random, 60) ? NULL : direction;
    bnncc_error error = {""};
    int64_t out_height = 0, out_width = 0;
    const bool shaped = check_status(tally, bnncc_pool_output_shape(&p, &out_height, &out_width, &error), &error);
    const wide images = n[13] < 0 || n[13] > INT32_MAX ? 0 : n[13];
    if (shaped) {
        const wide x_bytes = images * n[0] * n[1] * (wide)bytes_of(n[2]), rows = images * n[0] * out_height;
        const wide steps = rows * (n[3] + n[4]) * (n[2] + n[10] + 64) / 64 + rows * out_width;
        const bool small = steps < small_work && x_bytes < SMALL_BYTES && n[2] + n[10] < SMALL_COUNT;
        if (small || x_bytes > (wide)SIZE_MAX) {
            uint8_t *x = random_bytes(random, small ? (size_t)x_bytes : 1);
            uint8_t *bits = must_allocate(small ? (size_t)rows * bytes_of(out_width) : 1);
            const bnncc_status ran = bnncc_max_pool_signs(&p, random_one_in(random, 30) ? NULL : x, n[13],
                                                          random_one_in(random, 30) ? NULL : bits,
                                                          random_one_in(random, 2) ? &backwards : NULL, &error);
            check_status(tally, ran, &error);
            CHECK(tally, small || ran, "a size that cannot be is accepted");
            free(x);
            free(bits);
        }
    } else { /* a run must refuse it as well, before it touches the buffers */
        uint8_t byte = 0;
        const bnncc_status ran = bnncc_max_pool_signs(&p, &byte, n[13], &byte, NULL, &error);
        CHECK(tally, ran != BNNCC_OK, "a layer without a shape is run");
    }
    free(direction);
}

int main(int argc, char **argv) {
    const long rounds = argc > 1 ? atol(argv[1]) : 10000;
    random_state random = {.state = argc > 2 ? 2 * strtoull(argv[2], NULL, 10) + 1 : 20240502};
    tally tally = {0, 0};
    for (long i = 0; i < rounds; i++)
        switch (random_between(&random, 0, 8)) {
        case 0:
            fuzz_linear(&tally, &random);
            break;
        case 1:
            fuzz_binarize(&tally, &random);
            break;
        case 2:
            fuzz_unpack(&tally, &random);
            break;
        case 3:
            fuzz_pool(&tally, &random);
            break;
        case 4:
            fuzz_trees(&tally, &random);
            break;
        default:
            fuzz_conv(&tally, &random);
        }
    return finish(&tally, "fuzz");
}
