/* Trees over filters: distances and searches on every instruction set, trees of random shape and what kernels get of
 * them, and hints that cannot be.
 *
 *     test_trees [rounds] */
#include "support.h"
#include "tree/tree.h"

#include <string.h>

enum { MOST_NODES = 80 };

static const bnncc_isa all_isas[] = {BNNCC_ISA_PORTABLE, BNNCC_ISA_AVX2, BNNCC_ISA_AVX512BW, BNNCC_ISA_AVX512VPOPCNTDQ};

/* Parents of a random tree, or several, over nodes in random order. */
static void random_parents(random_state *random, int32_t *parents, int32_t nodes) {
    int32_t order[MOST_NODES];
    for (int32_t i = 0; i < nodes; i++) {
        const int32_t place = (int32_t)random_between(random, 0, i);
        order[i] = order[place];
        order[place] = i;
    }
    const bool chain = random_one_in(random, 4);
    for (int32_t i = 0; i < nodes; i++) {
        const int32_t above = chain ? i - 1 : (int32_t)random_between(random, -1, i - 1);
        parents[order[i]] = above < 0 ? -1 : order[above];
    }
}

static int bit_of(const uint8_t *row, int64_t position) { return sign_at(row, position) > 0; }

static void test_distances_and_search(tally *tally, random_state *random) {
    const int64_t count = random_between(random, 3, 20), length = random_between(random, 1, 700);
    uint8_t *filters = random_bytes(random, (size_t)count * packed_bytes(length));
    int32_t *expected = must_allocate((size_t)(count * count) * sizeof *expected);
    int32_t *distances = must_allocate((size_t)(count * count) * sizeof *distances);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < count; j++) {
            int32_t differ = 0;
            for (int64_t k = 0; k < length; k++)
                differ += bit_of(filters + (size_t)i * packed_bytes(length), k) !=
                          bit_of(filters + (size_t)j * packed_bytes(length), k);
            expected[i * count + j] = differ;
        }
    const bnncc_steiner_params params = {count, length, random_one_in(random, 2),
                                         (int32_t)random_between(random, 0, 3)};
    int32_t first_parents[2 * 20], parents[2 * 20];
    uint8_t first_flipped[20], flipped[20];
    int64_t first_bits = 0, bits = 0;
    bnncc_error error = {""};
    for (size_t i = 0; i < sizeof all_isas / sizeof *all_isas; i++) {
        if (!bnncc_isa_supported(all_isas[i]))
            continue;
        CHECK(tally,
              !bnncc_hamming_distances(filters, count, filters, count, length, distances, all_isas[i], &error) &&
                  !memcmp(distances, expected, (size_t)(count * count) * sizeof *distances),
              "%s: %s", bnncc_isa_name(all_isas[i]), error.message);
        CHECK(tally, !bnncc_steiner_tree(&params, filters, parents, flipped, &bits, all_isas[i], &error), "%s",
              error.message);
        if (i == 0) {
            memcpy(first_parents, parents, sizeof parents);
            memcpy(first_flipped, flipped, sizeof flipped);
            first_bits = bits;
        }
        CHECK(tally,
              bits == first_bits && !memcmp(flipped, first_flipped, (size_t)count) &&
                  !memcmp(parents, first_parents, (size_t)(2 * count - 2) * sizeof *parents),
              "%s finds another tree", bnncc_isa_name(all_isas[i]));
    }
    free(filters);
    free(expected);
    free(distances);
}

/* Every node after its parent, whose counters are still there. */
static void check_schedule(tally *tally, const group_tree *tree) {
    int32_t owner[MOST_NODES], place[MOST_NODES];
    size_t used = 0, power = 1, log = 0;
    for (; power <= tree->node_count; power *= 2)
        log++;
    for (size_t i = 0; i < MOST_NODES; i++)
        owner[i] = place[i] = -1;
    for (size_t i = 0; i < tree->node_count; i++) {
        const int32_t node = tree->order[i], parent = tree->parents[node], slot = tree->slots[node];
        CHECK(tally, place[node] < 0, "node %d is counted twice", node);
        CHECK(tally, slot >= 0 && (size_t)slot < tree->slot_count, "slot %d of %zu", slot, tree->slot_count);
        CHECK(tally, parent < 0 || owner[tree->slots[parent]] == parent, "node %d: its parent is gone", node);
        owner[slot] = node;
        place[node] = (int32_t)i;
        used = (size_t)slot >= used ? (size_t)slot + 1 : used;
    }
    CHECK(tally, used == tree->slot_count && used <= log, "%zu slots for %zu nodes", used, tree->node_count);
}

/* A hint of one to three groups, with arrays that have no room to spare. */
typedef struct hint {
    bnncc_filter_tree tree;
    int64_t groups, filters, group_nodes[3];
    int32_t *parents;
    uint8_t *flipped;
} hint;

static hint make_hint(random_state *random) {
    hint made = {.groups = random_between(random, 1, 3), .filters = random_between(random, 1, MOST_NODES / 2)};
    int32_t parents[3 * MOST_NODES];
    for (int64_t group = 0; group < made.groups; group++) {
        const int64_t nodes = random_between(random, made.filters, MOST_NODES);
        random_parents(random, parents + made.tree.node_count, (int32_t)nodes);
        made.group_nodes[group] = nodes;
        made.tree.node_count += (size_t)nodes;
    }
    made.parents = must_allocate(made.tree.node_count * sizeof *parents);
    memcpy(made.parents, parents, made.tree.node_count * sizeof *parents);
    made.flipped = random_bytes(random, (size_t)(made.groups * made.filters));
    for (int64_t i = 0; i < made.groups * made.filters; i++)
        made.flipped[i] &= 1;
    made.tree.parents = made.parents;
    made.tree.flipped = made.flipped;
    return made;
}

static void free_hint(hint *made) {
    free(made->parents);
    free(made->flipped);
}

static void test_group_trees(tally *tally, random_state *random) {
    hint made = make_hint(random);
    made.tree.group_nodes = made.group_nodes;
    const int64_t length = random_between(random, 1, 200);
    const size_t bytes = packed_bytes(length);
    uint8_t *weight = random_bytes(random, (size_t)(made.groups * made.filters) * bytes);
    group_tree *trees = NULL;
    bnncc_error error = {""};
    CHECK(tally,
          !group_trees_create(&made.tree, weight, (size_t)made.groups, (size_t)made.filters, (size_t)length, &trees,
                              &error),
          "%s", error.message);
    for (int64_t group = 0; trees && group < made.groups; group++) {
        const group_tree *tree = &trees[group];
        CHECK(tally, (int64_t)tree->node_count == made.group_nodes[group], "%zu nodes", tree->node_count);
        for (int64_t f = 0; f < made.filters; f++) {
            const int64_t filter = group * made.filters + f;
            CHECK(tally, tree->flipped[f] == made.flipped[filter], "filter %d", (int)filter);
            for (int64_t k = 0; k < length; k++)
                CHECK(tally,
                      bit_of(tree->bits + (size_t)f * bytes, k) ==
                          (bit_of(weight + (size_t)filter * bytes, k) ^ tree->flipped[f]),
                      "filter %d, bit %d", (int)filter, (int)k);
        }
        check_schedule(tally, tree);
    }
    group_trees_destroy(trees, (size_t)made.groups);

    /* A convolution takes the hint, and its answer stays. */
    const float one = 1, zero = 0;
    const bnncc_epilogue epilogue = {&one, &zero, 1, 1, NULL, 0, NULL};
    const bnncc_conv_params params = {.out_channels = made.groups * made.filters,
                                      .in_channels = made.groups * length,
                                      .group = made.groups,
                                      .kernel_shape = {1, 1},
                                      .strides = {1, 1},
                                      .dilations = {1, 1},
                                      .width = 3};
    const size_t outputs = (size_t)params.out_channels * 3;
    uint8_t *x = random_bytes(random, (size_t)params.in_channels);
    float *plain = must_allocate(outputs * sizeof *plain), *hinted = must_allocate(outputs * sizeof *hinted);
    for (int with = 0; with < 2; with++) {
        bnncc_conv *conv = NULL;
        const bnncc_conv_hints hints = {.tree = &made.tree};
        const bnncc_status status = bnncc_conv_create(&params, weight, (size_t)params.out_channels * bytes, &epilogue,
                                                      with ? &hints : NULL, BNNCC_ISA_AUTO, &conv, &error);
        CHECK(tally, !status && !bnncc_conv_run(conv, x, NULL, 1, 1, with ? hinted : plain, NULL, NULL, &error), "%s",
              error.message);
        bnncc_conv_destroy(conv);
    }
    CHECK(tally, !memcmp(plain, hinted, outputs * sizeof *plain), "the hint changes the result");
    free(x);
    free(plain);
    free(hinted);
    free(weight);
    free_hint(&made);
}

/* Each damage makes a hint that is refused with a message. */
static void test_bad_hints(tally *tally, random_state *random) {
    for (int damage = 0; damage < 11; damage++) {
        hint made = make_hint(random);
        made.tree.group_nodes = made.group_nodes;
        int32_t *last = &made.parents[made.tree.node_count - 1];
        const int32_t own = (int32_t)made.group_nodes[made.groups - 1] - 1;
        switch (damage) {
        case 0:
            *last = own;
            break; /* its own parent */
        case 1:
            *last = own + 1;
            break;
        case 2:
            *last = -2;
            break;
        case 3:
            *last = INT32_MAX;
            break;
        case 4:
            *last = INT32_MIN;
            break;
        case 5:
            made.group_nodes[0] = made.filters - 1;
            break;
        case 6:
            made.group_nodes[made.groups - 1]++;
            break;
        case 7:
            made.group_nodes[0] = INT64_MIN;
            break;
        case 8:
            made.group_nodes[0] = INT64_MAX;
            break;
        case 9:
            made.flipped[0] = 2;
            break;
        default:
            made.tree.parents = NULL;
        }
        bnncc_error error = {""};
        const bnncc_status status = check_filter_tree(&made.tree, (size_t)made.groups, (size_t)made.filters, &error);
        CHECK(tally, status == BNNCC_INVALID_ARGUMENT && error.message[0], "damage %d: status %d", damage, (int)status);
        free_hint(&made);
    }
    /* A long circle that nothing hangs from. */
    int32_t circle[64], order[64], slots[64], slot_count = 0;
    for (int32_t i = 0; i < 64; i++)
        circle[i] = (i + 1) % 64;
    bnncc_error error = {""};
    CHECK(tally, bnncc_tree_schedule(circle, 64, order, slots, &slot_count, &error) == BNNCC_INVALID_ARGUMENT, "%s",
          error.message);
    circle[63] = -1;
    CHECK(tally, !bnncc_tree_schedule(circle, 64, order, slots, &slot_count, &error) && slot_count == 1, "%s",
          error.message);
}

int main(int argc, char **argv) {
    const long rounds = argc > 1 ? atol(argv[1]) : 300;
    random_state random = {.state = 20240503};
    tally tally = {0, 0};
    for (long i = 0; i < rounds; i++) {
        test_distances_and_search(&tally, &random);
        test_group_trees(&tally, &random);
        test_bad_hints(&tally, &random);
    }
    return finish(&tally, "test_trees");
}
