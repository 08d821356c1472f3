"""Trees over filters against brute force, and every option."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from filter_sets import brute_distances, pack, some_filters, unpack

from bnncc.errors import BadInput
from bnncc.passes.filter_tree import (
    NO_PARENT,
    TreeOptions,
    complement_of,
    engine_tree,
    paper_tree,
    size_with_positions,
)
from bnncc.runtime import trees

OPTIONS = [
    TreeOptions(shared_root=root, complement=complement, steiner=steiner, ripple=ripple, max_depth=depth)
    for root, complement, steiner, ripple, depth in itertools.product(
        (False, True), (False, True), (False, True), (0, 5), (None, 3)
    )
]


def kruskal_total(costs):
    """The total of a minimum spanning tree, without scipy."""
    group = list(range(len(costs)))
    total = 0
    edges = [(costs[i][j], i, j) for i in range(len(costs)) for j in range(i)]
    for cost, i, j in sorted(edges):
        if group[i] != group[j]:
            total += cost
            group = [group[i] if g == group[j] else g for g in group]
    return total


def depth_from(parents, root):
    edges = [(node, parent) for node, parent in enumerate(parents) if parent != NO_PARENT]
    depth, reached, frontier = 0, {root}, {root}
    while len(reached) < len(parents):
        frontier = {b if a in frontier else a for a, b in edges if (a in frontier) != (b in frontier)} - reached
        reached |= frontier
        depth += 1
    return depth


def check(tree, filters, options):
    """Everything that must hold of any tree: bits, order, slots, counts by the paper's identity, virtual filters."""
    count, length = filters.shape
    bits = unpack(tree.bits, length)
    assert tree.filter_count == count
    assert len(tree.parents) == len(tree.bits) == len(tree.order) == len(tree.slots) == count + tree.virtual_count
    np.testing.assert_array_equal(bits[:count], filters ^ tree.flipped[:count, None])
    assert not tree.flipped[count:].any()
    assert sorted(tree.order) == list(range(len(tree.parents)))
    roots = np.flatnonzero(tree.parents == NO_PARENT)
    assert options.shared_root or len(roots) == 1
    if not options.complement:
        assert not tree.flipped.any()
    if not options.steiner:
        assert tree.virtual_count == 0
    if options.max_depth is not None:
        assert tree.depth <= options.max_depth

    # As a kernel would: counters in slots, each node from its parent's, by eq. 3: P_j = P_i - d_ij + 2 P_ij.
    inputs = np.random.default_rng(9).integers(0, 2, (5, length))
    slots, owner = np.zeros((tree.slot_count, 5), np.int64), [None] * tree.slot_count
    for node in tree.order:
        parent = tree.parents[node]
        if parent != NO_PARENT:
            assert owner[tree.slots[parent]] == parent
            base, row = slots[tree.slots[parent]], bits[parent]
        elif options.shared_root:
            base, row = (inputs == 0).sum(axis=1), np.zeros(length, np.int64)
        else:
            base, row = (inputs == 1 - bits[node]).sum(axis=1), 1 - bits[node]
        differ = row != bits[node]
        assert differ.sum() == tree.edge_bits[node]
        agree = (inputs[:, differ] == bits[node, differ]).sum(axis=1)
        slots[tree.slots[node]], owner[tree.slots[node]] = base - differ.sum() + 2 * agree, node
        expected = (inputs == bits[node]).sum(axis=1)
        np.testing.assert_array_equal(slots[tree.slots[node]], expected)
        if node < count:
            dot = (2 * inputs - 1) @ (2 * filters[node].astype(np.int64) - 1)
            np.testing.assert_array_equal((2 * expected - length) * (-1 if tree.flipped[node] else 1), dot)

    again = trees.virtual_filters(pack(filters), length, tree.parents, tree.flipped, shared_root=tree.shared_root)
    np.testing.assert_array_equal(again, tree.bits)


# ---- The paper's tree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "centre", "equal"])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 17, 40])
def test_paper_tree(count, kind):
    filters = some_filters(count, count, 72, kind)
    tree = paper_tree(pack(filters), 72)
    check(tree, filters, TreeOptions(shared_root=False, complement=False, steiner=False))
    assert np.count_nonzero(tree.parents != NO_PARENT) == count - 1
    assert tree.planes == 72 + kruskal_total(brute_distances(filters, filters).tolist())
    assert tree.depth == min(depth_from(tree.parents, root) for root in range(count))


def test_equal_filters_cost_nothing():
    filters = np.repeat(some_filters(3, 1, 72), 20, axis=0)
    assert paper_tree(pack(filters), 72).planes == 72
    filters[::2] ^= True
    ones = int(filters[0].sum())
    for steiner in (False, True):
        assert engine_tree(pack(filters), 72, TreeOptions(steiner=steiner)).planes == min(ones, 72 - ones)


def test_constant_filters_cost_nothing():
    filters = np.repeat([[False], [True]], 30, axis=1)
    assert engine_tree(pack(filters), 30).planes == 0


def test_size_with_positions():
    filters = np.zeros((3, 10), bool)
    filters[1, :2] = filters[2, :5] = True  # a path 0 - 1 - 2 with d = 2 and 3
    tree = paper_tree(pack(filters), 10)
    assert tree.parents.tolist() == [1, NO_PARENT, 1]
    assert tree.depth == 1
    assert tree.planes == 15
    size = 10 + math.log2(math.comb(10, 2)) + math.log2(math.comb(10, 3)) + 2 * (math.log2(3) + math.log2(11))
    assert size_with_positions(tree) == pytest.approx(size)


# ---- The engine's tree -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["random", "centre", "equal"])
def test_every_option(options, kind):
    for count, length in ((1, 9), (2, 9), (3, 65), (7, 3), (24, 75)):
        filters = some_filters(count, count, length, kind)
        check(engine_tree(pack(filters), length, options), filters, options)


@pytest.mark.parametrize("seed", range(5))
def test_spanning_trees_are_minimal(seed):
    filters = some_filters(seed, 20, 60)
    nodes = np.concatenate([np.zeros((1, 60), bool), filters])
    distances = brute_distances(nodes, nodes)
    rooted = engine_tree(pack(filters), 60, TreeOptions(complement=False, steiner=False))
    assert rooted.planes == kruskal_total(distances.tolist())
    either = engine_tree(pack(filters), 60, TreeOptions(steiner=False))
    assert either.planes == kruskal_total(np.minimum(distances, 60 - distances).tolist())
    assert (either.edge_bits <= 30).all()


def test_each_extension_helps():
    filters = pack(some_filters(5, 48, 288))
    steps = [
        paper_tree(filters, 288),
        engine_tree(filters, 288, TreeOptions(complement=False, steiner=False)),
        engine_tree(filters, 288, TreeOptions(steiner=False)),
        engine_tree(filters, 288),
    ]
    planes = [tree.planes for tree in steps]
    assert planes == sorted(planes, reverse=True)
    assert planes[0] > planes[1] > planes[2] > 1.25 * planes[3]


@pytest.mark.parametrize(("count", "length"), [(64, 576), (128, 1152)])
def test_virtual_filters_on_filters_around_a_centre(count, length):
    filters = pack(some_filters(0, count, length, "centre"))
    spanning, virtual = engine_tree(filters, length, TreeOptions(steiner=False)), engine_tree(filters, length)
    assert spanning.planes >= 1.6 * virtual.planes
    assert virtual.planes < 0.12 * count * length


def least_bits(filters, complement):
    """The fewest differing bits of any tree over the filter of zeros and three filters, with any complements."""
    best = math.inf
    for flips in itertools.product(*[(False, True) if complement else (False,)] * 3):
        nodes = np.concatenate([np.zeros((1, filters.shape[1]), bool), filters ^ np.array(flips)[:, None]])
        for partner in (1, 2, 3):  # the tree joins 0 with its partner, and the other two
            c, d = (nodes[node] for node in (1, 2, 3) if node != partner)
            within = (nodes[0] != nodes[partner]).astype(int) + (c != d)
            between = (within == 0) & (nodes[0] != c)
            best = min(best, int((within + between).sum()))
    return best


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_three_filters_are_solved_exactly(seed, complement):
    filters = some_filters(seed, 3, 33, "random" if seed % 2 else "centre")
    tree = engine_tree(pack(filters), 33, TreeOptions(complement=complement))
    assert tree.planes == least_bits(filters, complement)


def test_edges_have_a_price():
    filters = pack(some_filters(4, 60, 200, "centre"))
    free = engine_tree(filters, 200)
    priced = engine_tree(filters, 200, TreeOptions(ripple=10))
    assert priced.additions < free.additions
    assert priced.planes + 10 * priced.additions < free.planes + 10 * free.additions
    assert free.planes <= priced.planes
    assert engine_tree(filters, 200, TreeOptions(ripple=10_000)).virtual_count == 0


def test_depth_limit_costs_planes_and_one_is_a_star():
    filters = some_filters(6, 40, 200)
    trees = [engine_tree(pack(filters), 200, TreeOptions(max_depth=depth)) for depth in (None, 6, 2, 1)]
    assert trees[0].depth > 6
    assert [tree.depth for tree in trees[1:]] == [6, 2, 1]
    planes = [tree.planes for tree in trees]
    assert planes == sorted(planes)
    ones = filters.sum(axis=1)
    assert trees[3].planes == np.minimum(ones, 200 - ones).sum()


def test_slots_stay_few():
    tree = engine_tree(pack(some_filters(7, 100, 300)), 300)
    assert tree.slot_count <= 1 + math.log2(len(tree.parents))
    path = np.tri(50, 50, dtype=bool)
    assert engine_tree(pack(path), 50, TreeOptions(complement=False)).slot_count == 1


def test_deterministic_and_ignores_unused_bits():
    filters = pack(some_filters(8, 50, 75))
    dirty = filters.copy()
    dirty[:, -1] |= 0xF8
    first, second = engine_tree(filters, 75), engine_tree(dirty, 75)
    for name in ("parents", "flipped", "bits", "order", "slots"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_ties_go_to_the_lower_number():
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], bool)  # four edges of length 1, one too many
    tree = paper_tree(pack(square), 2)
    edges = {frozenset((node, int(parent))) for node, parent in enumerate(tree.parents) if parent != NO_PARENT}
    assert edges == {frozenset((0, 1)), frozenset((0, 3)), frozenset((1, 2))}
    assert tree.parents[0] == NO_PARENT  # of the centres 0 and 1


@pytest.mark.parametrize(
    ("shape", "length", "changes", "message"),
    [
        ((0, 2), 9, {}, "at least one filter"),
        ((3, 1), 9, {}, r"shape \[3, 1\]"),
        ((3,), 9, {}, r"shape \[3\]"),
        ((3, 0), 0, {}, "packed 0 bits"),
        ((3, 2), 9, {"ripple": -1}, "ripple"),
        ((3, 2), 9, {"sweeps": -1}, "sweeps"),
        ((3, 2), 9, {"max_depth": 0}, "max_depth"),
    ],
)
def test_bad_arguments(shape, length, changes, message):
    with pytest.raises(BadInput, match=message):
        engine_tree(np.zeros(shape, np.uint8), length, replace(TreeOptions(), **changes))


def test_complement_keeps_unused_bits_zero():
    filters = some_filters(1, 3, 11)
    np.testing.assert_array_equal(complement_of(pack(filters), 11), pack(~filters))
