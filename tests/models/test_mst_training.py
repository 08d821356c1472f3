"""Training for the tree: distances and their gradient, centers, the compiler's counts, fewer bits after training."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import bnncc
from bnncc.models import data
from bnncc.models.export import export
from bnncc.models.layers import BinaryConv2d
from bnncc.models.mst_training import LOSSES, CenterLoss, TreeLoss
from bnncc.models.networks import build_network
from bnncc.models.schedules import MST_SCHEDULES
from bnncc.models.train import TrainConfig, train
from bnncc.models.tree_cost import output_positions, tree_cost


def layer_of(rows, **options):
    """A network of one layer whose filters are rows of 9 signs."""
    layer = BinaryConv2d(1, len(rows), 3, **options)
    layer.weight.data = 0.5 * torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 1, 3, 3)
    return torch.nn.Sequential(layer)


def cost_of(model, shape):
    """What its trees cost for images of a shape."""
    return tree_cost(model, output_positions(model, shape))


ONES = [1] * 9
NEAR = [-1] + [1] * 8
FAR = [-1] * 9


def test_distances_and_gradient():
    torch.manual_seed(0)
    model = layer_of([ONES, ONES, NEAR])
    loss = CenterLoss(model, 0.25)
    value = loss()
    assert value.item() == 0.25 * 1  # the majority is all ones: one bit of NEAR differs
    value.backward()
    # lambda (D - b c) / 2 falls by lambda / 2 for each step of a weight towards its center's bit
    assert model[0].weight.grad.unique().tolist() == [-0.125]


def test_centers_are_majorities_of_their_members():
    torch.manual_seed(1)
    model = layer_of([ONES, NEAR, ONES, FAR, FAR, FAR])
    for _ in range(8):  # two centers drawn from the same kind cannot part: draw until they differ
        loss = CenterLoss(model, 1.0, centers=2)
        if not torch.equal(*loss.centers_0):
            break
    assert loss().item() == 1
    assert sorted(loss.centers_0.sum(1).tolist()) == [-9, 9]
    assert loss.targets_0.tolist() == [ONES] * 3 + [FAR] * 3


def test_centers_move_when_they_are_due():
    torch.manual_seed(2)
    model = layer_of([ONES, ONES, ONES])
    loss = CenterLoss(model, 1.0, refresh=3)
    first = loss()
    model[0].weight.data.neg_()
    model[0].weight.data[0, 0, 0, 0] *= -1
    drawn_to = []
    for _ in range(3):
        value = loss()
        drawn_to.append((value.item(), loss.targets_0[0].tolist()))
    assert drawn_to == [(0, ONES), (0, ONES), (1, FAR)]  # steps 1 and 2 have old centers and their distance
    (first + value).backward()  # an earlier step's gradient is that of its centers
    assert (model[0].weight.grad == 0).all()


def test_the_tree_draws_filters_to_their_neighbours():
    """One filter lies between two others: it is drawn to both and to the filter of zeros, they to it."""
    middle = [1, 1, -1, -1, -1, -1, -1, -1, -1]
    left = [1, 1, 1, 1, -1, -1, -1, -1, -1]
    right = [1, 1, -1, -1, 1, 1, -1, -1, -1]
    model = layer_of([middle, left, right])
    loss = TreeLoss(model, 0.5)
    value = loss()
    # Two bits from the filter of zeros to the middle, and two more to each side.
    assert value.item() == 0.5 * (2 + 2 + 2)
    value.backward()
    zeros = [-1] * 9
    expected = [np.add(np.add(zeros, left), right), middle, middle]
    np.testing.assert_array_equal(model[0].weight.grad.flatten(1).numpy(), -0.25 * np.array(expected))


def test_complements_are_drawn_as_they_are_counted():
    model = layer_of([FAR, NEAR])  # NEAR as its complement is one bit from the filter of zeros, which FAR is
    loss = TreeLoss(model, 1.0)
    value = loss()
    assert value.item() == 1
    value.backward()
    # NEAR's complement is drawn to zeros: NEAR to ones.
    assert model[0].weight.grad.flatten(1)[1].tolist() == [-0.5] * 9


def test_trees_are_found_again_when_they_are_due():
    model = layer_of([ONES, NEAR])
    loss = TreeLoss(model, 1.0, refresh=3)
    first = loss().item()
    with torch.no_grad():
        model[0].weight.flatten(1)[1] *= torch.tensor([1, 1, -1, -1, 1, 1, 1, 1, 1.0])
    assert [loss().item() for _ in range(3)] == [first, first, first + 2]


def test_tree_costs_are_counted_as_the_compiler_counts():
    model = layer_of([ONES, NEAR, FAR])
    cost = cost_of(model, (1, 3, 3))
    assert cost.dense == 27
    assert cost.mst == 9 + 1 + 8  # ONES - NEAR - FAR, from a root of 9
    assert cost.depth == 1  # the root is the middle
    assert cost.distance == 1 + 8
    without = tree_cost(model, output_positions(model, (1, 3, 3)), engine=False)
    assert without == dataclasses.replace(cost, steiner=None, steiner_operations=None)
    assert cost.steiner < cost.mst  # all ones are the complement of the filter of zeros, and so is FAR
    grouped = torch.nn.Sequential(BinaryConv2d(2, 4, 3, groups=2), BinaryConv2d(4, 2, 1))
    cost = cost_of(grouped, (2, 4, 5))
    assert cost.dense == 4 * 9 + 2 * 4
    assert cost.dense_operations == 2 * 3 * cost.dense
    assert cost.mst >= 2 * 9 + 4  # each group has a root of its own
    left_out = torch.nn.Sequential(BinaryConv2d(2, 4, 3, activations="none"), BinaryConv2d(4, 2, 1, weights="none"))
    assert cost_of(left_out, (2, 4, 5)).dense == 0


def test_counts_are_those_of_the_compiled_file(tmp_path):
    """Kernels of any size, and groups; a layer of float inputs is counted by neither."""
    torch.manual_seed(6)
    model = torch.nn.Sequential(
        BinaryConv2d(1, 6, 3, activations="none"),
        torch.nn.BatchNorm2d(6),
        BinaryConv2d(6, 8, 5, padding=2, groups=2),
        torch.nn.BatchNorm2d(8),
        BinaryConv2d(8, 12, 1),
        torch.nn.BatchNorm2d(12),
        BinaryConv2d(12, 16, 3, stride=2),
    ).eval()
    shape = (1, 10, 11)
    path = export(model, tmp_path / "m.onnx", shape)
    settings = bnncc.Config(tree_ripple=0, verify_samples=4, input_shapes={"image": [-1, *shape]})
    trees = bnncc.compile(path, config=settings).report.trees
    cost = cost_of(model, shape)
    assert trees.layers == 3
    assert (cost.dense, cost.mst, cost.steiner) == (trees.bits_dense, trees.bits_mst, trees.bits_tree)
    assert cost.dense_operations == trees.operations_dense
    assert cost.mst_operations == trees.operations_mst
    assert cost.steiner_operations == trees.operations_tree
    assert cost.depth == trees.depth_mst


def test_published_numbers_of_bits_and_operations():
    """VGG-small has 4,571,136 weights in its binary 3x3 convolutions, and 603,979,776 operations for an image."""
    cost = cost_of(build_network("vgg_small", width=8), (3, 32, 32))
    assert (cost.dense * 256, cost.dense_operations * 256) == (4_571_136, 603_979_776)


def test_operations_weigh_bits_by_positions():
    """Filters of the last layers, on small maps, made equal: of bits much is saved, of operations less."""
    torch.manual_seed(5)
    model = build_network("vgg_small", width=8)
    *_, fourth, fifth = (layer for layer in model.modules() if isinstance(layer, BinaryConv2d))
    for layer in (fourth, fifth):
        layer.weight.data[:] = layer.weight.data[:1]
    cost = cost_of(model, (3, 32, 32))
    assert cost.mst / cost.dense < 0.2
    assert cost.mst_operations / cost.dense_operations > 0.25
    assert model.training


@pytest.mark.parametrize("kind", LOSSES)
def test_filters_come_together(tmp_path, kind):
    """The same run with and without the loss: the trees are smaller, and what is learnt is not lost."""
    torch.set_num_threads(1)
    digits = data.load("digits", "train"), data.load("digits", "test")
    options = {"width": 16, "in_channels": 1, "image_size": 8}
    last, logs = {}, {}
    for weight in (0.0, 1e-4):
        settings = TrainConfig(
            "digits", "vgg_small", options, epochs=8, batch=32, lr=5e-3, seed=3, mst_weight=weight, mst_loss=kind
        )
        logs[weight] = []
        model = train(settings, *digits, tmp_path / str(weight), on_epoch=logs[weight].append)
        last[weight] = (cost_of(model, (1, 8, 8)), logs[weight][-1])
    plain, drawn = last[0.0][0], last[1e-4][0]
    assert drawn.mst < 0.8 * plain.mst
    assert drawn.steiner < 0.8 * plain.steiner
    assert last[1e-4][1]["test_accuracy"] > 0.9
    assert last[1e-4][1]["mst_bits"] == pytest.approx(drawn.mst / drawn.dense, abs=1e-6)  # rounded there
    assert last[1e-4][1]["mst_distance"] == drawn.distance
    assert last[1e-4][1]["distance_loss"] > 0
    assert last[1e-4][1]["mst_depth"] == drawn.depth
    assert [entry["epoch"] for entry in logs[0.0] if "tree_bits" in entry] == [8]  # nothing to follow: the end alone
    assert len([entry for entry in logs[1e-4] if "tree_bits" in entry]) == 8
    assert last[0.0][1]["mst_bits"] == pytest.approx(plain.mst / plain.dense, abs=1e-6)


def test_schedules_weigh_the_same_distance(tmp_path):
    """Where neither bits nor centers change, the mean of an epoch's losses is that of lambda times one distance."""
    digits = data.load("digits", "train"), data.load("digits", "test")
    entries = []
    for schedule in MST_SCHEDULES:
        settings = TrainConfig(
            "digits",
            "vgg_small",
            {"width": 4, "in_channels": 1, "image_size": 8},
            epochs=1,
            batch=128,
            lr=1e-12,
            mst_weight=1e-4,
            mst_refresh=100,
            mst_schedule=schedule,
        )
        train(settings, *digits, tmp_path / schedule, on_epoch=entries.append)
    steps = len(digits[0]) // 128
    constant, rising, falling = (entry["distance_loss"] for entry in entries)
    assert constant > 0
    # The step s of n has the weight 2 s / n or 2 (1 - s / n), s from 0; logs have six decimals.
    assert rising == pytest.approx(constant * (steps - 1) / steps, abs=2e-6)
    assert falling == pytest.approx(constant * (steps + 1) / steps, abs=2e-6)


def test_refused_numbers():
    model = layer_of([ONES])
    for loss in (CenterLoss, TreeLoss):
        for arguments in ({"weight": -1}, {"weight": float("nan")}, {"weight": 1, "refresh": 0}):
            with pytest.raises(ValueError, match="at least 0 and 1"):
                loss(model, **arguments)
    with pytest.raises(ValueError, match="centers 0: at least 1"):
        CenterLoss(model, 1, centers=0)
    with pytest.raises(ValueError, match="2 centers are more than the 1 filters of convolution 1"):
        CenterLoss(model, 1, centers=2)
    for loss in (CenterLoss, TreeLoss):
        with pytest.raises(ValueError, match="no convolution has binary weights and activations"):
            loss(torch.nn.Sequential(BinaryConv2d(2, 2, 3, groups=2), BinaryConv2d(2, 2, 3, activations="none")), 1.0)


def test_quantizers_with_other_values_count_their_bits():
    for name in ("dab", "bi-half", "ir-net"):
        torch.manual_seed(4)
        layer = BinaryConv2d(4, 6, 3, weights=name)
        stored = layer.weight_quantizer.stored(layer.weight)
        loss = CenterLoss(torch.nn.Sequential(layer), 1.0)
        center = np.where(stored.bits.flatten(1).float().mean(0) >= 0.5, 1, 0)
        expected = int((stored.bits.flatten(1).numpy() != center).sum())
        assert loss().item() == expected
