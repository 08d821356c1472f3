"""Training for the tree: distances and their gradient, centers, the compiler's counts, fewer bits after training."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bnncc.models import data
from bnncc.models.layers import BinaryConv2d
from bnncc.models.mst_training import CenterLoss, tree_cost
from bnncc.models.networks import build_network
from bnncc.models.train import TrainConfig, train


def layer_of(rows, **options):
    """A network of one layer whose filters are rows of 9 signs."""
    layer = BinaryConv2d(1, len(rows), 3, **options)
    layer.weight.data = 0.5 * torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 1, 3, 3)
    return torch.nn.Sequential(layer)


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
    members = loss.members_0.tolist()
    assert members[:3] == [members[0]] * 3
    assert members[3:] == [1 - members[0]] * 3


def test_centers_move_when_they_are_due():
    torch.manual_seed(2)
    model = layer_of([ONES, ONES, ONES])
    loss = CenterLoss(model, 1.0, refresh=3)
    loss()
    model[0].weight.data.neg_()
    assert [loss().item() for _ in range(4)] == [27, 27, 0, 0]  # steps 1 and 2 have old centers


def test_tree_costs_are_counted_as_the_compiler_counts():
    model = layer_of([ONES, NEAR, FAR])
    cost = tree_cost(model)
    assert cost.dense == 27
    assert cost.mst == 9 + 1 + 8  # ONES - NEAR - FAR, from a root of 9
    assert cost.depth == 1  # the root is the middle
    assert cost.steiner < cost.mst  # all ones are the complement of the filter of zeros, and so is FAR
    grouped = torch.nn.Sequential(BinaryConv2d(2, 2, 3, groups=2), BinaryConv2d(2, 2, 1))
    assert tree_cost(grouped).dense == 0


def test_published_number_of_bits():
    """VGG-small has 4,571,136 weights in its binary 3x3 convolutions."""
    assert tree_cost(build_network("vgg_small", width=16), steiner=False).dense * 64 == 4_571_136


def test_filters_come_together(tmp_path):
    """The same run with and without the loss: the trees are smaller, and what is learnt is not lost."""
    torch.set_num_threads(1)
    digits = data.load("digits", "train"), data.load("digits", "test")
    options = {"width": 16, "in_channels": 1, "image_size": 8}
    last = {}
    for weight in (0.0, 1e-4):
        settings = TrainConfig("digits", "vgg_small", options, epochs=8, batch=32, lr=5e-3, seed=3, mst_weight=weight)
        entries = []
        model = train(settings, *digits, tmp_path / str(weight), on_epoch=entries.append)
        last[weight] = (tree_cost(model), entries[-1])
    plain, drawn = last[0.0][0], last[1e-4][0]
    assert drawn.mst < 0.8 * plain.mst
    assert drawn.steiner < 0.8 * plain.steiner
    assert last[1e-4][1]["test_accuracy"] > 0.9
    assert last[1e-4][1]["mst_bits"] == pytest.approx(drawn.mst / drawn.dense)
    assert last[1e-4][1]["mst_depth"] == drawn.depth
    assert "mst_bits" not in last[0.0][1]


def test_refused_numbers():
    model = layer_of([ONES])
    for arguments in (
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": 1, "centers": 0},
        {"weight": 1, "refresh": 0},
    ):
        with pytest.raises(ValueError, match="at least 0, 1 and 1"):
            CenterLoss(model, **arguments)


def test_quantizers_with_other_values_count_their_bits():
    for name in ("dab", "bi-half", "ir-net"):
        torch.manual_seed(4)
        layer = BinaryConv2d(4, 6, 3, weights=name)
        stored = layer.weight_quantizer.stored(layer.weight)
        loss = CenterLoss(torch.nn.Sequential(layer), 1.0)
        center = np.where(stored.bits.flatten(1).float().mean(0) >= 0.5, 1, 0)
        expected = int((stored.bits.flatten(1).numpy() != center).sum())
        assert loss().item() == expected
