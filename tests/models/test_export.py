"""Export through both of torch's exporters: the file computes what the network computes, in the forms documented."""

import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import bnncc
from bnncc.errors import BadInput
from bnncc.models.export import export
from bnncc.models.layers import BinaryConv2d, BinaryLinear
from bnncc.models.networks import build_network

NETWORKS = {
    "vgg_small": {"width": 16, "image_size": 14},  # odd sizes on the way: 14, 7, 3, 1
    "bireal_resnet": {"width": 16, "depths": (2, 1, 1), "stem_stride": 2},
}
SHAPE = (1, 14, 14)
FORMS = [
    (exporter, weights, fold)
    for exporter in ("torchscript", "dynamo")
    for weights in ("binary", "latent")
    for fold in (False, True)
]


def network(name, weights):
    """A network with batch-norms of both slopes and with statistics of real passes."""
    torch.manual_seed(11)
    model = build_network(name, in_channels=1, weights=weights, **NETWORKS[name])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.5)
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(16, *SHAPE))
    return model.eval()


def outputs(path, images):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("image", list(SHAPE))]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    return session.run(["logits"], {"image": images})[0]


def convolutions(path):
    """Op types of the graph, and the constant weights of its 3x3 convolutions of 16 inputs or more."""
    graph = onnx.load(path).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    weights = [values[n.input[1]] for n in graph.node if n.op_type == "Conv" and n.input[1] in values]
    return [n.op_type for n in graph.node], [w for w in weights if w.shape[1] >= 16 and w.shape[2:] == (3, 3)]


@pytest.fixture(
    scope="module",
    params=[
        (name, quantizer, *form)
        for name, quantizer in [("vgg_small", "sign"), ("bireal_resnet", "sign"), ("bireal_resnet", "xnor")]
        for form in FORMS
    ]
    + [
        (name, quantizer, exporter, "binary", fold)
        for name in NETWORKS
        for quantizer in ("dab", "bi-half", "ir-net")
        for exporter in ("torchscript", "dynamo")
        for fold in (False, True)
    ]
    + [("bireal_resnet", "ir-net", exporter, "latent", False) for exporter in ("torchscript", "dynamo")],
    ids=lambda values: "-".join(map(str, values)),
)
def exported(request, tmp_path_factory):
    """A network and its file, in each form."""
    name, quantizer, exporter, weights, fold = request.param
    model = network(name, quantizer)
    return model, export(model, tmp_path_factory.mktemp("export") / "m.onnx", SHAPE, exporter, weights, fold)


def test_file_computes_what_the_network_computes(exported):
    model, path = exported
    assert list(path.parent.iterdir()) == [path]  # one file: no external data, nothing temporary
    images = np.random.default_rng(0).random((64, *SHAPE), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for batch in (1, 64):  # dynamic
        differing = np.abs(outputs(path, images[:batch]) - expected[:batch]).max(1) > 1e-4
        # Float sums in another order may flip a sign that lies on its threshold, rarely: one image of 64 may differ.
        assert differing.sum() <= 1


def test_every_form_compiles_with_all_layers_binary(exported, tmp_path):
    model, path = exported
    settings = bnncc.Config(input_shapes={"image": [8, *SHAPE]}, verify_samples=8)
    report = bnncc.compile(path, output=tmp_path / "c.onnx", config=settings).report
    layers = sum(isinstance(module, BinaryConv2d) for module in model.modules())
    assert [layer.status for layer in report.layers].count("binary") == layers
    assert report.verify.argmax_agreement == 1.0


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("status", ["float", "weight-binary"])
def test_layers_that_are_not_binary_in_both_stay_float(tmp_path, exporter, status):
    """Weights of three values, and float activations."""
    if status == "float":
        model = network("vgg_small", "bi-half-pruned")
    else:
        torch.manual_seed(13)
        model = build_network("conv2", width=8, hidden=16, in_channels=1, image_size=14, weights="bi-half").eval()
    path = export(model, tmp_path / "m.onnx", SHAPE, exporter)
    settings = bnncc.Config(input_shapes={"image": [-1, *SHAPE]}, verify_samples=8)
    report = bnncc.compile(path, output=tmp_path / "c.onnx", config=settings).report
    quantized = sum(isinstance(module, BinaryConv2d | BinaryLinear) for module in model.modules())
    statuses = [layer.status for layer in report.layers]
    assert statuses.count("binary") == 0
    assert statuses.count(status) == (len(statuses) if status == "float" else quantized)
    images = np.random.default_rng(2).random((64, *SHAPE), np.float32)
    found = bnncc.InferenceSession(str(tmp_path / "c.onnx")).run(None, {"image": images})[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    # Floats in another order; in the first network one may flip a sign on its threshold, rarely.
    differing = np.abs(found - expected).max(1) > 1e-4 * np.abs(expected).max()
    assert differing.sum() <= (status == "float")


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_unfolded_binary_form_is_clean(tmp_path, name, exporter):
    model = network(name, "sign")
    ops, weights = convolutions(export(model, tmp_path / "m.onnx", SHAPE, exporter))
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    latents = [m.weight for m in model.modules() if isinstance(m, BinaryConv2d)]
    assert ops.count("BatchNormalization") == norms
    assert ops.count("GreaterOrEqual") == ops.count("Where") == len(latents)
    assert not {"Sign", "Sub", "Cast", "Mul"} & set(ops)  # no straight-through residue
    for weight, latent in zip(weights, latents, strict=True):
        np.testing.assert_array_equal(weight, np.where(latent.detach().numpy() >= 0, 1, -1))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_folded_weights_stay_plus_minus_c(tmp_path, exporter):
    model = network("bireal_resnet", "sign")
    ops, weights = convolutions(export(model, tmp_path / "m.onnx", SHAPE, exporter, fold_batch_norm=True))
    assert "BatchNormalization" not in ops
    blocks = list(model.blocks)
    for weight, block in zip(weights, blocks, strict=True):
        norm = block.norm
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
        sign = np.where(block.conv.weight.detach().numpy() >= 0, 1, -1)
        np.testing.assert_allclose(weight, sign * scale[:, None, None, None], rtol=1e-6)
        assert (np.abs(weight) == np.abs(weight[:, :1, :1, :1])).all()  # exactly one magnitude per channel


def test_latent_form_keeps_the_quantizer_in_the_graph(tmp_path):
    model = network("bireal_resnet", "xnor")
    ops, _ = convolutions(export(model, tmp_path / "m.onnx", SHAPE, weights="latent"))
    assert ops.count("GreaterOrEqual") == 2 * len(model.blocks)  # activations and weights
    assert ops.count("Abs") == len(model.blocks)


@pytest.mark.parametrize("quantizer", ["dab", "bi-half", "bi-half-pruned"])
def test_latent_forms_that_sort_are_refused(tmp_path, quantizer):
    with pytest.raises(BadInput, match="sorts, which cannot be exported; store binary weights"):
        export(network("vgg_small", quantizer), tmp_path / "m.onnx", SHAPE, weights="latent")
    assert not list(tmp_path.iterdir())


def test_equal_parameters_are_stored_apart(tmp_path):
    model = network("bireal_resnet", "sign")
    with torch.no_grad():
        model.blocks[2].shortcut[2].bias.copy_(model.blocks[2].norm.bias)
    path = export(model, tmp_path / "m.onnx", SHAPE)
    graph = onnx.load(path).graph
    assert "Identity" not in {node.op_type for node in graph.node}
    assert {"blocks.2.shortcut.2.bias", "blocks.2.norm.bias"} <= {initializer.name for initializer in graph.initializer}
    with torch.no_grad():
        expected = model(torch.ones(1, *SHAPE)).numpy()
    np.testing.assert_allclose(outputs(path, np.ones((1, *SHAPE), np.float32)), expected, atol=1e-4)


def test_export_leaves_the_network_alone_and_is_quiet(tmp_path):
    model = network("vgg_small", "sign").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(model, tmp_path / "m.onnx", SHAPE)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_dynamo_export_is_quiet(tmp_path):
    """In a process of its own, since torch logs to the stderr that it found when it was imported."""
    script = (
        "from bnncc.models.export import export\n"
        "from bnncc.models.networks import build_network\n"
        "model = build_network('vgg_small', in_channels=1, width=4, image_size=14)\n"
        f"export(model, {str(tmp_path / 'm.onnx')!r}, (1, 14, 14), 'dynamo')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dynamo_file_has_no_paths_of_this_machine(tmp_path):
    path = export(network("vgg_small", "sign"), tmp_path / "m.onnx", SHAPE, "dynamo")
    assert b"site-packages" not in path.read_bytes()
    assert b".py" not in path.read_bytes()


def test_refusals(tmp_path):
    model = network("vgg_small", "sign")
    with pytest.raises(BadInput, match="unknown exporter 'onnx'; there are: torchscript, dynamo"):
        export(model, tmp_path / "m.onnx", SHAPE, exporter="onnx")
    with pytest.raises(BadInput, match="unknown form of weights 'packed'"):
        export(model, tmp_path / "m.onnx", SHAPE, weights="packed")
    with pytest.raises(BadInput, match="cannot be written: No such file or directory"):
        export(model, tmp_path / "nowhere" / "m.onnx", SHAPE)
    assert not list(tmp_path.iterdir())


# ---- The papers' networks ---------------------------------------------------------------------------------------


PAPERS = [
    ("resnet18", {"width": 16, "stem": "small", "depths": (2, 2), "weights": "bi-half"}, (3, 16, 16), 4),
    ("resnet20", {"width": 16, "depths": (2, 2), "block": "basic", "weights": "sign"}, (3, 16, 16), 4),
    ("reactnet18", {"width": 16, "depths": (2, 2), "weights": "xnor"}, (3, 48, 48), 4),
    # The image itself is float: the first layer has binary weights, and what follows is binary, the last included.
    (
        "conv4",
        {"width": 16, "hidden": 32, "image_size": 16, "weights": "bi-half", "activations": "sign"},
        (3, 16, 16),
        6,
    ),
    ("sketch_a_net", {"width": 16, "image_size": 28, "classes": 6, "weights": "dab"}, (1, 28, 28), 6),
    ("sketch_a_net", {"width": 16, "image_size": 28, "classes": 6, "weights": "xnor"}, (1, 28, 28), 6),
]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize(("name", "options", "shape", "layers"), PAPERS, ids=lambda value: str(value)[:20])
def test_networks_of_the_papers_compile_with_nothing_left_float(tmp_path, exporter, name, options, shape, layers):
    torch.manual_seed(12)
    model = build_network(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # thresholds, slopes and shifts as they are after training
            if parameter.dim() == 1 or parameter.shape[0] == 1 < parameter.numel():
                parameter.add_(torch.randn_like(parameter).mul_(0.3))
        for _ in range(4):
            model(torch.randn(16, *shape))
    path = export(model.eval(), tmp_path / "m.onnx", shape, exporter)
    images = np.random.default_rng(1).standard_normal((16, *shape)).astype(np.float32)
    np.savez(tmp_path / "x.npz", image=images)
    settings = bnncc.Config(verify_samples=8, input_shapes={"image": [-1, *shape]})
    report = bnncc.compile(path, output=tmp_path / "c.onnx", config=settings, data=tmp_path / "x.npz").report
    assert [layer.status for layer in report.layers].count("binary") == layers
    left = [layer.name for layer in report.layers if layer.candidate and layer.status != "binary"]
    assert len(left) == (name == "conv4")
    assert report.verify.argmax_agreement == 1.0
    # The network itself, in float: signs on their thresholds aside, one image of sixteen at most.
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = bnncc.InferenceSession(str(tmp_path / "c.onnx")).run(None, {"image": images})[0]
    assert (np.abs(found - expected).max(1) > 1e-3 * np.abs(expected).max()).sum() <= 1
