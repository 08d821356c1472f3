"""Export of trained networks to ONNX, through either of PyTorch's exporters.

The file has one input "image" [batch, C, H, W] and one output "logits" [batch, classes], float32, batch free, and
computes what the network computes in eval mode. Straight-through code leaves no trace: a binarizer arrives as
Where(GreaterOrEqual(x, 0), 1, -1).

What the two exporters make of a binary convolution followed by batch-norm (torch 2.13, onnxscript 0.7):

| exporter | `fold_batch_norm` | `weights` | what arrives |
| --- | --- | --- | --- |
| torchscript | no | binary | Conv with a +-1 (xnor: +-alpha) initializer, BatchNormalization: cleanest; the default |
| torchscript | no | latent | the same, weights computed: Where(GreaterOrEqual(W, 0)); xnor: Abs, ReduceMean, Mul too |
| torchscript | yes | binary | Conv with weights +-c, c = gamma / sqrt(var + eps), and a bias; no BatchNormalization |
| torchscript | yes | latent | nothing folds into computed weights; float convolutions do fold |
| dynamo | no | binary | as the first row, with a bias of zeros on each Conv |
| dynamo | no | latent | weights computed up to 8,192 elements become +-1 initializers, larger ones stay Where |
| dynamo | yes | either | where the weights are (or became) an initializer, +-c and a bias; others as above |

A folded convolution sums floats +-c instead of counting exactly, so activations that lie within rounding of a
threshold may differ from the network's; that is why folding is off unless asked for. Pooling between convolution and
batch-norm (VGG-small's) prevents folding. With gamma = 0 a folded channel is all zeros and no longer binary. With
dynamo, global average pooling is ReduceMean and flatten is Reshape, instead of GlobalAveragePool and Flatten.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from bnncc.errors import BadInput
from bnncc.models.files import replacing
from bnncc.models.layers import BinaryConv2d, BinaryLinear
from bnncc.models.quantizers import WeightQuantizer

OPSET = 18
EXPORTERS = ("torchscript", "dynamo")
WEIGHT_FORMS = ("binary", "latent")


class _AsStored(WeightQuantizer):
    """Weights that are used as they are: those of an exported copy."""

    def forward(self, latent: Tensor) -> Tensor:
        return latent


def with_binary_weights(model: nn.Module) -> nn.Module:
    """Copy the network into one whose binary layers hold their effective weights instead of the latent ones."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (BinaryConv2d, BinaryLinear)):
            quantizer = module.weight_quantizer
            weight = quantizer.stored(module.weight).weight if quantizer.binary else module.effective_weight().detach()
            module.weight = nn.Parameter(weight, requires_grad=False)
            module.weight_quantizer = _AsStored()
    return model


def export(
    model: nn.Module,
    path: str | Path,
    image_shape: tuple[int, int, int],
    exporter: str = "torchscript",
    weights: str = "binary",
    fold_batch_norm: bool = False,
) -> Path:
    """Write a network to an ONNX file (opset 18), checked by `onnx.checker`, and return the path.

    `image_shape` is (C, H, W). `exporter` is "torchscript" or "dynamo"; `weights` "binary" stores the weights that
    multiply, "latent" stores the latent ones and their quantizer's arithmetic; `fold_batch_norm` lets the exporter fold
    batch-norms into convolutions. The module's text says what each gives. The model is left as it was.
    Raises `BadInput` for an unknown choice or a folder that cannot be written.
    """
    if exporter not in EXPORTERS:
        raise BadInput(f"unknown exporter {exporter!r}; there are: {', '.join(EXPORTERS)}")
    if weights not in WEIGHT_FORMS:
        raise BadInput(f"unknown form of weights {weights!r}; there are: {', '.join(WEIGHT_FORMS)}")
    if weights == "latent":
        for name, module in model.named_modules():
            if isinstance(module, WeightQuantizer) and not module.exportable:
                raise BadInput(f"{name}: {type(module).__name__} sorts, which cannot be exported; store binary weights")
    frozen = with_binary_weights(model) if weights == "binary" else copy.deepcopy(model)
    frozen.eval().cpu()
    image = torch.zeros(2, *image_shape)  # 2 images: a batch of 1 would be taken for a constant
    with replacing(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        # torch warns that its older exporter is the older one, and of its own deprecated calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if exporter == "torchscript":
            _export_torchscript(frozen, image, temporary, fold_batch_norm)
        else:
            _export_dynamo(frozen, image, temporary, fold_batch_norm)
        onnx.checker.check_model(str(temporary), full_check=True)
    return Path(path)


def _export_torchscript(model: nn.Module, image: Tensor, path: Path, fold_batch_norm: bool) -> None:
    """Export in the mode in which TorchScript folds batch-norms, or in the one that leaves the network as it is."""
    mode = torch.onnx.TrainingMode.EVAL if fold_batch_norm else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        model,
        (image,),
        path,
        dynamo=False,
        training=mode,
        do_constant_folding=fold_batch_norm,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    onnx.save(_with_own_initializers(onnx.load(path)), path)


def _with_own_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each Identity of an initializer by an initializer of its own, in place.

    TorchScript stores equal parameters once and gives the others by Identity. Equal ones do occur: two batch-norms
    whose outputs are added learn the same shift.
    """
    graph = model.graph
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in initializers]:
        graph.initializer.add().CopyFrom(initializers[node.input[0]])
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)
    return model


@contextlib.contextmanager
def _quiet_about_torchvision() -> Iterator[None]:
    """Keep torch's exporter from logging that it leaves out torchvision's ops, of which networks here have none."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _export_dynamo(model: nn.Module, image: Tensor, path: Path, fold_batch_norm: bool) -> None:
    """Export without torch's optimizer, which folds batch-norms, unless that is wanted; fold constants either way."""
    from onnxscript import optimizer  # comes with torch's exporter; slow to import

    with _quiet_about_torchvision():
        program = torch.onnx.export(
            model,
            (image,),
            dynamo=True,
            optimize=fold_batch_norm,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if not fold_batch_norm:
        optimizer.inline(program.model)
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of the machine that exported
    onnx.save(proto, path)
