"""The library's tree functions from NumPy: distances, searches and virtual filters against their definitions."""

import itertools

import numpy as np
import pytest
from filter_sets import brute_distances, pack, some_filters, unpack

from bnncc.errors import BadInput
from bnncc.runtime import isas, trees

NO_PARENT = -1


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("length", [1, 7, 8, 63, 64, 65, 511, 512, 513, 1152, 4608])
def test_distances(isa, length):
    a, b = some_filters(1, 9, length), some_filters(2, 5, length)
    packed = pack(a)
    if length % 8:
        packed[:, -1] |= 0x80  # unused bits are ignored
    np.testing.assert_array_equal(trees.hamming_distances(packed, pack(b), length, isa), brute_distances(a, b))


def test_distances_of_nothing():
    nothing = np.zeros((0, 2), np.uint8)
    assert trees.hamming_distances(nothing, nothing, 9).shape == (0, 0)


def test_distances_of_other_shapes():
    with pytest.raises(BadInput, match="b has rows of 2 bytes, not 1"):
        trees.hamming_distances(np.zeros((1, 1), np.uint8), np.zeros((1, 2), np.uint8), 8)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("length", [5, 64, 300, 512, 700])
def test_search_is_the_same_on_every_isa_and_counts_right(isa, complement, length):
    filters = some_filters(1, 30, length)
    result = trees.steiner_tree(pack(filters), length, complement=complement, sweeps=3, isa=isa)
    expected = trees.steiner_tree(pack(filters), length, complement=complement, sweeps=3, isa="portable")
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])
    parents, flipped, bits = result
    assert bits == expected[2]
    assert complement or not flipped.any()
    children = np.bincount(parents[1:], minlength=len(parents))
    assert children[0] == 1
    assert (children[1:30] == 0).all()
    assert (children[30:] == 2).all()
    nodes = np.concatenate([filters ^ flipped[:, None], np.zeros((28, length), bool)])
    labelled = trees.virtual_filters(pack(nodes[:30]), length, parents, np.zeros(30, bool), shared_root=False)
    assert np.unpackbits(labelled[1:] ^ labelled[parents[1:]]).sum() == bits


def test_sweeps_help():
    filters = pack(some_filters(2, 40, 400))
    bits = [trees.steiner_tree(filters, 400, complement=True, sweeps=sweeps)[2] for sweeps in (0, 1, 20)]
    assert bits[0] > bits[1] >= bits[2]


@pytest.mark.parametrize("seed", range(4))
def test_labels_are_optimal(seed):
    """Against all values of the virtual nodes of a small tree of any shape, bit by bit."""
    random = np.random.default_rng(seed)
    fixed, virtual = 5, 4
    parents = np.full(fixed + virtual, NO_PARENT, np.int32)
    shuffled = random.permutation(fixed + virtual)
    if seed % 2:
        shuffled = np.concatenate([[0], shuffled[shuffled != 0]])
    for place, node in enumerate(shuffled[1:], 1):
        parents[node] = shuffled[random.integers(place)]
    bits = random.integers(0, 2, (fixed + virtual, 24)).astype(bool)
    packed = trees.virtual_filters(pack(bits[:fixed]), 24, parents, np.zeros(fixed, bool), shared_root=False)
    labelled = unpack(packed, 24)
    np.testing.assert_array_equal(labelled[:fixed], bits[:fixed])
    has_parent = parents != NO_PARENT
    for bit in range(24):
        totals = []
        for values in itertools.product((0, 1), repeat=virtual):
            column = np.concatenate([bits[:fixed, bit], values])
            totals.append((column[has_parent] != column[parents[has_parent]]).sum())
        assert (labelled[has_parent, bit] != labelled[parents[has_parent], bit]).sum() == min(totals)


@pytest.mark.parametrize("parents", [[1, 0, -1], [3, -1, -1], [-2, 0, 0]])
def test_parents_of_no_tree(parents):
    filters = np.zeros((2, 1), np.uint8)
    with pytest.raises(BadInput, match="not those of a tree"):
        trees.virtual_filters(filters, 8, np.array(parents, np.int32), np.zeros(2, bool), shared_root=True)


@pytest.mark.parametrize("parents", [[1, 0, -1], [3, -1, -1], [-2, 0, 0], [0, -1]])
def test_schedules_of_no_tree(parents):
    with pytest.raises(BadInput, match="not those of a tree"):
        trees.schedule(np.array(parents, np.int32))


def test_schedule_takes_small_branches_first():
    """4 has the children 0 (with two leaves, so two slots), 3 (a leaf) and 5 (a chain of two)."""
    order, slots = trees.schedule(np.array([4, 0, 0, 4, -1, 4, 5], np.int32))
    assert order.tolist() == [4, 3, 5, 6, 0, 1, 2]
    assert slots.tolist() == [0, 1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (lambda f: trees.schedule(np.zeros(0, np.int32)), "node_count is 0"),
        (lambda f: trees.schedule(np.zeros(3, np.int64)), "parents are int64"),
        (lambda f: trees.schedule(np.zeros((1, 1), np.int32)), "one dimension"),
        (lambda f: trees.virtual_filters(f, 8, np.full(2, -1, np.int32), [0, 0, 0], shared_root=True), "node_count"),
        (lambda f: trees.virtual_filters(f, 8, np.full(3, -1, np.int32), [0, 0], shared_root=True), "flipped has 2"),
        (lambda f: trees.steiner_tree(f[:2], 8, complement=True, sweeps=1), "count is 2"),
        (lambda f: trees.steiner_tree(f, 8, complement=True, sweeps=-1), "sweeps"),
        (lambda f: trees.steiner_tree(f, 9, complement=True, sweeps=1), "rows of 1 bytes"),
        (lambda f: trees.hamming_distances(f[0], f, 8), "dimensions"),
        (lambda f: trees.hamming_distances(f, f, 8, isa="sse9"), "isa is 'sse9'"),
    ],
)
def test_bad_arguments(call, cause):
    with pytest.raises(BadInput, match=cause):
        call(np.zeros((3, 1), np.uint8))
