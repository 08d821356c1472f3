"""TropNNC on single layers: the paper's examples, its algorithms' properties, and its bounds against sampled errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bnncc.passes.tropnnc import clustering, merging, zonotopes
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

ROOT_3 = 3**0.5
GENERATORS = np.array([[1, 0], [1 / 2, ROOT_3 / 2]])


def signed_labels(layer: HiddenLayer, count: int, seed: int = 0) -> np.ndarray:
    """Clusters of Algorithm 1: K-means on positive and on negative generators."""
    rows, groups = merging.generators(layer), merging.sign_groups(layer)
    shares = clustering.shares_of([len(some) for some in groups], count)
    return clustering.labels_by_groups(
        groups, layer.neurons, lambda k, some: clustering.kmeans_labels(rows[some], shares[k], seed)
    )


def draw_layer(
    rng: np.random.Generator, neurons: int, inputs: int, outputs: int, spread: float | None = None
) -> HiddenLayer:
    """A random layer; with `spread`, input vectors around the first axis, so that no two form an obtuse angle."""
    extended = rng.standard_normal((neurons, inputs + 1))
    if spread is not None:
        extended = np.eye(inputs + 1)[0] * (1 + rng.random((neurons, 1))) + spread * extended
    return HiddenLayer(extended[:, :-1], extended[:, -1], rng.standard_normal((neurons, outputs)))


def ball(rng: np.random.Generator, count: int, dimensions: int, radius: float) -> np.ndarray:
    """Points of a ball, half of them on its surface."""
    points = rng.standard_normal((count, dimensions))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    points[: count // 2] *= rng.random((count // 2, 1))
    return points


# ---- Zonotopes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("representative", "discrete", "distance"),
    [(GENERATORS.mean(axis=0), ROOT_3 / 2, ROOT_3 / 2), (GENERATORS.sum(axis=0), 1, 1 / 2)],
    ids=["mean, example 2", "sum, example 3"],
)
def test_distances_of_examples_2_and_3(representative, discrete, distance):
    assert zonotopes.discrete_hausdorff_distance(GENERATORS, representative[None]) == pytest.approx(discrete)
    assert zonotopes.hausdorff_distance(GENERATORS, representative[None]) == pytest.approx(distance)


def test_vertices_of_a_hexagon_with_parallel_and_opposite_generators():
    """Generators in three directions make a hexagon, however often they come; opposite ones only move it."""
    hexagon = np.array([[1, 0], [0, 1], [1, 1]])
    assert len(zonotopes.vertices(hexagon)) == 6
    split = np.array([[0.25, 0], [0.75, 0], [0, 1], [1, 1], [0, 0]])
    assert {tuple(v) for v in zonotopes.vertices(split)} == {tuple(v) for v in zonotopes.vertices(hexagon)}
    moved = np.array([[1, 0], [0, 2], [0, -1], [1, 1]])
    expected = {tuple(v) for v in zonotopes.vertices(np.array([[1, 0], [0, 3], [1, 1]])) - [0, 1]}
    assert {tuple(v) for v in zonotopes.vertices(moved)} == expected


def test_too_many_generators_are_refused():
    with pytest.raises(ValueError, match="13 generators"):
        zonotopes.hausdorff_distance(np.eye(13), np.eye(13)[:1])


# ---- Algorithms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_as_many_clusters_as_neurons_leave_the_function(seed):
    rng = np.random.default_rng(seed)
    layer, x = draw_layer(rng, 9, 4, 3), rng.standard_normal((50, 4))
    labels = clustering.kmeans_labels(clustering.neuron_vectors(layer), 9, seed)
    for merge in (
        merging.merge_multi_output,
        merging.merge_neural_path_kmeans,
        merging.merge_rank_one,
        lambda a, b: merging.merge_iterative(a, b, 5),
        lambda a, b: merging.merge_sign_frozen(a, b, 5),
    ):
        # Rounded sums of float64, of size 1 to 100
        np.testing.assert_allclose(merge(layer, labels)(x), layer(x), rtol=0, atol=1e-12)
    single = HiddenLayer(layer.inputs, layer.bias, layer.outputs[:, :1])
    merged = merging.merge_single_output(single, signed_labels(single, 9, seed))
    np.testing.assert_allclose(merged(x), single(x), rtol=0, atol=1e-12)


def test_example_5():
    """Two outputs that share one direction: the mean, weights 8 and 6; then the iteration and its limit."""
    layer = HiddenLayer(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]), np.array([[3.0, 4.0], [5.0, 2.0]]))
    labels = np.zeros(2, int)
    start = merging.merge_multi_output(layer, labels)
    np.testing.assert_allclose(start.extended, [[0.5, 0.5]])
    np.testing.assert_allclose(start.outputs, [[8, 6]])
    np.testing.assert_allclose(merging.objectives(layer, labels, start), [4])
    once = merging.merge_iterative(layer, labels, 1)
    np.testing.assert_allclose(once.extended, [[0.48, 0.52]])
    np.testing.assert_allclose(merging.objectives(layer, labels, once), [3.92])
    limit = merging.merge_iterative(layer, labels, 200)
    assert merging.objectives(layer, labels, limit)[0] == pytest.approx(3.913207, abs=5e-7)  # as many digits are known
    closed = merging.merge_rank_one(layer, labels)
    np.testing.assert_allclose(merging.objectives(layer, labels, closed), merging.objectives(layer, labels, limit))
    x = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(closed(x), limit(x), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_iteration_never_raises_its_objective_and_tends_to_the_closed_form(seed):
    rng = np.random.default_rng(seed)
    layer = draw_layer(rng, 12, 5, 4)
    labels = clustering.kmeans_labels(clustering.neuron_vectors(layer), 4, seed)
    steps = [
        merging.objectives(layer, labels, merging.merge_iterative(layer, labels, count))
        for count in (0, 1, 2, 5, 20, 2000)
    ]
    closed = merging.objectives(layer, labels, merging.merge_rank_one(layer, labels))
    for before, after in itertools.pairwise(steps):
        assert (after <= before * (1 + 1e-12) + 1e-12).all()
    np.testing.assert_allclose(steps[-1], closed, rtol=1e-6, atol=1e-12)  # it converges linearly


@pytest.mark.parametrize("seed", range(5))
def test_parallel_neurons_merge_exactly(seed):
    """Neurons that are positive multiples of three: any algorithm for several outputs but the baseline keeps those."""
    rng = np.random.default_rng(seed)
    base, x = draw_layer(rng, 3, 4, 2), rng.standard_normal((50, 4))
    labels = np.array([0, 1, 2, 0, 1, 0])
    size = np.array([1, 1, 1, 1, 1, 1])[:, None]
    outputs = rng.standard_normal((6, 2))
    layer = HiddenLayer(base.inputs[labels] * size, base.bias[labels], outputs)
    expected = layer(x)
    for merge in (
        merging.merge_multi_output,
        merging.merge_rank_one,
        lambda a, b: merging.merge_iterative(a, b, 10),
    ):
        np.testing.assert_allclose(merge(layer, labels)(x), expected, atol=1e-12)
    stretched = HiddenLayer(layer.inputs * [[1], [1], [1], [2], [3], [4]], layer.bias * [1, 1, 1, 2, 3, 4], outputs)
    for merge in (merging.merge_rank_one, lambda a, b: merging.merge_iterative(a, b, 1)):
        np.testing.assert_allclose(merge(stretched, labels)(x), stretched(x), atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "count", "sizes"),
    [
        ([1, 1, 1, -1, -1, -1], 4, (2, 2)),
        ([1, 1, 1, 1, 1, -1], 3, (2, 1)),
        ([1, 1, 1, 1, 1, -1], 2, (1, 1)),
        ([1, 0, 1, 0, 1, 0], 2, (2, 0)),
        ([-1, 1, -1, -1, 1, 0], 5, (2, 3)),
    ],
)
def test_odd_numbers_of_clusters_are_shared_in_proportion(weights, count, sizes):
    rng = np.random.default_rng(1)
    weights = np.array(weights, float)
    layer = HiddenLayer(rng.standard_normal((6, 3)), rng.standard_normal(6), weights[:, None])
    labels = signed_labels(layer, count)
    assert (labels[weights == 0] == -1).all()
    assert (len(set(labels[weights > 0])), len(set(labels[weights < 0]))) == sizes
    merged = merging.merge_single_output(layer, labels)
    assert merged.neurons == sum(sizes)
    np.testing.assert_allclose(
        merged.outputs.T @ merged.extended, layer.outputs.T @ layer.extended, atol=1e-12
    )  # sums of generators


def test_one_cluster_cannot_serve_both_signs():
    layer = HiddenLayer(np.eye(2), np.zeros(2), np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="1 clusters of 2 groups"):
        signed_labels(layer, 1)


# ---- Bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_sampled_errors_never_exceed_the_bounds(seed, radius):
    rng = np.random.default_rng(seed)
    rho = zonotopes.ball_factor(radius)
    x = ball(rng, 2000, 3, radius)
    layer = draw_layer(rng, 8, 3, 2, spread=0.2)
    labels = clustering.kmeans_labels(clustering.neuron_vectors(layer), 3, seed)
    for merged in (
        merging.merge_multi_output(layer, labels),
        merging.merge_iterative(layer, labels, 3),
        merging.merge_sign_frozen(layer, labels, 20),
    ):
        error = np.abs(merged(x) - layer(x)).sum(axis=1).max()
        exact = zonotopes.theorem_11(layer, merged)
        assert 0 < error <= rho * exact * (1 + 1e-9)
    frozen = zonotopes.proposition_14(layer, labels, merged)
    assert frozen is not None
    assert exact <= frozen * (1 + 1e-9)

    single = HiddenLayer(layer.inputs, layer.bias, layer.outputs[:, :1])
    labels = signed_labels(single, 4, seed)
    merged = merging.merge_single_output(single, labels)
    error = np.abs(merged(x) - single(x)).max()
    exact, angle = zonotopes.theorem_11(single, merged), zonotopes.angle_bound(single, labels)
    printed = zonotopes.proposition_12(single, labels)
    assert 0 < error <= rho * exact * (1 + 1e-9)
    assert exact <= angle * (1 + 1e-9)
    assert exact <= printed * (1 + 1e-9)


def test_bounds_say_nothing_where_angles_are_obtuse():
    layer = HiddenLayer(np.array([[1.0, 0.0], [-1.0, 0.1], [0.5, 0.0]]), np.zeros(3), np.ones((3, 1)))
    labels = np.zeros(3, int)
    assert zonotopes.proposition_12(layer, labels) is None
    assert zonotopes.angle_bound(layer, labels) is None
    assert zonotopes.proposition_14(layer, labels, merging.merge_sign_frozen(layer, labels, 5)) is None


# ---- Clusters --------------------------------------------------------------------------------------------------


def test_clusters_are_numbered_as_they_come_and_seeded():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((40, 5))
    labels = clustering.kmeans_labels(vectors, 7, seed=1)
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(7)]
    assert first == sorted(first)
    assert (labels == clustering.kmeans_labels(vectors, 7, seed=1)).all()
    twice = np.repeat(vectors[:3], 2, axis=0)
    assert clustering.kmeans_labels(twice, 5).tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="41 clusters of 40"):
        clustering.kmeans_labels(vectors, 41)


def test_cuts_at_the_papers_thresholds():
    vectors = np.array([[0.0, 0.0], [0.0, 1.0], [8.0, 0.0], [8.0, 1.0]])
    tree = clustering.merge_tree(vectors)
    assert clustering.cut(tree, clustering.threshold_v1(vectors, 0.75)).tolist() == [0, 0, 1, 1]
    assert clustering.cut(tree, clustering.threshold_v1(vectors, 0.5)).tolist() == [0, 1, 2, 3]
    norms = (0 + 1 + 8 + 65**0.5) / 4
    assert clustering.threshold_v2(vectors, 0.5) == pytest.approx(norms / 2)
    assert clustering.threshold_v3(vectors, 0.5) == pytest.approx(2**0.15 * norms**0.7 / 2)
    assert clustering.cut(clustering.merge_tree(vectors[:1]), 1.0).tolist() == [0]
    with pytest.raises(ValueError, match="'single'"):
        clustering.merge_tree(vectors, "single")


def test_balanced_vectors_have_inputs_and_outputs_of_one_norm():
    rng = np.random.default_rng(0)
    layer = draw_layer(rng, 6, 4, 3)
    layer = HiddenLayer(layer.inputs, layer.bias, layer.outputs * np.array([1, 2, 3, 4, 5, 0])[:, None])
    vectors = clustering.neuron_vectors(layer, bias=False, balanced=True)
    np.testing.assert_allclose(np.linalg.norm(vectors[:5, :4], axis=1), np.linalg.norm(vectors[:5, 4:], axis=1))
    np.testing.assert_allclose(vectors[5, :4], layer.inputs[5])


def test_trees_of_many_long_vectors(monkeypatch):
    """Distances by matrix products give the clusters that scipy's own distances give."""
    vectors = np.random.default_rng(6).standard_normal((60, 40))
    plain = clustering.merge_tree(vectors)
    monkeypatch.setattr(clustering, "_MANY_PRODUCTS", 0)
    tree = clustering.merge_tree(vectors)
    np.testing.assert_allclose(tree, plain, rtol=1e-9, atol=1e-9)
    for distance in np.quantile(plain[:, 2], [0.2, 0.5, 0.9]):
        np.testing.assert_array_equal(clustering.cut(tree, distance), clustering.cut(plain, distance))


def test_kmeans_of_many_long_vectors(monkeypatch):
    """In as many dimensions as vectors: the same clusters, where they are clear."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((8, 300))
    vectors = np.repeat(centers, 5, axis=0) + 0.1 * rng.standard_normal((40, 300))
    expected = np.repeat(np.arange(8), 5)
    np.testing.assert_array_equal(clustering.kmeans_labels(vectors, 8), expected)
    monkeypatch.setattr(clustering, "_MANY_PRODUCTS", 1)
    monkeypatch.setattr(clustering, "_MANY_IN_KMEANS", 1)
    np.testing.assert_array_equal(clustering.kmeans_labels(vectors, 8), expected)


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [([6], 4, [4]), ([3, 3], 3, [1, 1]), ([9, 1], 2, [1, 1]), ([9, 1], 5, [4, 1]), ([2, 3], 9, [2, 3]), ([], 0, [])],
)
def test_shares(sizes, count, shares):
    assert clustering.shares_of(sizes, count) == shares


def test_proposition_14_needs_least_squares_weights():
    layer = HiddenLayer(np.array([[1.0, 0.0]]), np.zeros(1), np.array([[-1.0]]))
    merged = HiddenLayer(np.array([[1.0, 0.0]]), np.zeros(1), np.array([[100.0]]))
    assert zonotopes.proposition_14(layer, np.zeros(1, int), merged) is None
