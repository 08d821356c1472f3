"""Accuracy and loss of a network on a data set, from PyTorch or from an ONNX file; the latter needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from bnncc.errors import BadInput
from bnncc.models.data import DataSet
from bnncc.onnxruntime_errors import one_line, runtime_errors

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Score:
    """Result of an evaluation: accuracy in [0, 1], mean cross-entropy (nats), number of images."""

    accuracy: float
    loss: float
    count: int


def evaluate(model: nn.Module, data: DataSet, batch: int = 500) -> Score:
    """Score a network in eval mode (float32) on a data set; the mode it was in is put back."""
    import torch  # here, because ONNX files are scored without it

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        score = _score(
            lambda images: model(torch.from_numpy(images).to(device)).cpu().numpy(), data, batch, "the network"
        )
    model.train(was_training)
    return score


def evaluate_onnx(path: str | Path, data: DataSet, batch: int = 500, threads: int = 0) -> Score:
    """Score an ONNX file with one image input and logits first among its outputs, under onnxruntime.

    `threads` 0 leaves the number to onnxruntime. Raises `BadInput` if onnxruntime cannot load it or run it on the data.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = [entry.name for entry in session.get_inputs()]
        if len(inputs) != 1:
            raise BadInput(f"{path}: has {len(inputs)} inputs ({', '.join(inputs)}) where one image is expected")
        return _score(lambda images: session.run(None, {inputs[0]: images})[0], data, batch, str(path))
    except runtime_errors() as error:
        raise BadInput(f"{path}: onnxruntime cannot load or run it: {one_line(error)}") from error


def _score(predict: Callable[[np.ndarray], np.ndarray], data: DataSet, batch: int, name: str) -> Score:
    """Score what maps float32 images [n, C, H, W] to logits [n, classes], or [n, 1] for the second class of two.

    Raises `BadInput`, beginning with `name`, for anything else.
    """
    correct, loss = 0, 0.0
    for start in range(0, len(data), batch):
        part = slice(start, start + batch)
        labels = data.labels[part]
        logits = predict(data.inputs(part)).astype(np.float64)
        if logits.ndim != 2 or {1: 2}.get(logits.shape[1], logits.shape[1]) != data.classes:
            raise BadInput(f"{name}: gives {list(logits.shape[1:])} where {data.name} has {data.classes} classes")
        if logits.shape[1] == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        correct += int((logits.argmax(1) == labels).sum())
        highest = logits.max(1)
        log_sum = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
        loss += float((log_sum - logits[np.arange(len(labels)), labels]).sum())
    return Score(correct / len(data), loss / len(data), len(data))
