"""Shipped models: reachable without torch, as accurate as their card says, binary inside."""

import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from bnncc.errors import BadInput
from bnncc.models import SHIPPED, shipped_names, shipped_path

MODELS = ["vgg_small_fashion_mnist", "vgg_small_mst_fashion_mnist", "bireal_resnet_fashion_mnist"]


def test_names_and_paths():
    assert shipped_names() == [
        "bireal_resnet_fashion_mnist.onnx",
        "fashion_mnist_test500.npz",
        "vgg_small_fashion_mnist.onnx",
        "vgg_small_mst_fashion_mnist.onnx",
    ]
    assert shipped_path("vgg_small_fashion_mnist") == shipped_path("vgg_small_fashion_mnist.onnx")
    assert shipped_path("fashion_mnist_test500.npz").is_file()


@pytest.mark.parametrize("name", ["resnet", "../__init__.py", ""])
def test_unknown_name_tells_what_there_is(name):
    with pytest.raises(BadInput, match=r"there are: bireal_resnet_fashion_mnist\.onnx"):
        shipped_path(name)


def test_reachable_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import bnncc.models, bnncc.models.data; "
        "print(bnncc.models.shipped_path('vgg_small_fashion_mnist').is_file())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.fixture(scope="module")
def sample():
    with np.load(shipped_path("fashion_mnist_test500.npz")) as file:
        return dict(file)


def test_sample_is_usable_as_it_is(sample):
    assert sorted(sample) == ["image", "labels"]
    assert (sample["image"].dtype, sample["image"].shape) == (np.float32, (500, 1, 28, 28))
    assert (sample["labels"].dtype, sample["labels"].shape) == (np.int64, (500,))
    assert (sample["image"].min(), sample["image"].max()) == (0.0, 1.0)


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_what_the_card_says(name, sample):
    card = (SHIPPED / "CARD.md").read_text()
    row = re.search(rf"^\| `{name}\.onnx` \|.*?\| (\d+) of 500 \|", card, re.MULTILINE)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(shipped_path(name)), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": sample["image"]})
    assert int((logits.argmax(1) == sample["labels"]).sum()) == int(row[1])


@pytest.mark.parametrize(("name", "count"), list(zip(MODELS, (5, 5, 6), strict=True)))
def test_inner_convolutions_are_binary_and_batch_norm_is_apart(name, count):
    model = onnx.load(shipped_path(name))
    onnx.checker.check_model(model, full_check=True)
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights = [values[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    binary = [w for w in weights if np.array_equal(np.unique(w), [-1, 1])]
    assert len(binary) == count
    assert all(w.shape[1] % 64 == 0 and w.shape[2:] == (3, 3) for w in binary)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) >= count
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
