"""Seeded damage to files: whatever the bytes are, the answer is one clear line and never a crash."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

import bnncc
from bnncc import BadInput, BnnccError, Config
from bnncc.onnxruntime_errors import one_line, runtime_errors


def damaged(content: bytes, count: int, seed: int, spare: tuple[bytes, ...] = ()):
    """Yield copies with one to three bytes changed, outside the first occurrence of each of `spare`."""
    generator = np.random.default_rng(seed)
    allowed = np.ones(len(content), dtype=bool)
    for part in spare:
        start = content.index(part)
        allowed[start : start + len(part)] = False
    places = np.flatnonzero(allowed)
    for _ in range(count):
        copy = bytearray(content)
        for place in generator.choice(places, generator.integers(1, 4)):
            copy[place] = generator.integers(0, 256)
        yield bytes(copy)


def outcome(call) -> str:
    try:
        call()
    except BnnccError as error:
        # A message of several lines, or none, is counted as what it is not.
        return type(error).__name__ if len(str(error).splitlines()) == 1 else repr(error)
    return "done"


def load_and_run(path):
    session = bnncc.InferenceSession(path, threads=1)
    item = session.get_inputs()[0]
    if item.shape[1:] == [3, 8, 8]:
        image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
        try:
            session.run(None, {item.name: image})
        except runtime_errors() as error:  # sizes that only a run shows, as of an image that a Conv has padded by 95
            raise BadInput(one_line(error)) from error


def test_damaged_originals(make_cnn, tmp_path):
    model = make_cnn()
    weights = tuple(tensor.raw_data for tensor in model.graph.initializer if len(tensor.raw_data) > 200)
    path = tmp_path / "m.onnx"
    counts = Counter()
    for content in damaged(model.SerializeToString(), 200, seed=11, spare=weights):
        path.write_bytes(content)
        counts[outcome(lambda: bnncc.compile(path, config=Config(verify_samples=1)))] += 1
    assert counts["BadInput"] > 50
    assert counts["done"] > 5
    assert set(counts) <= {"BadInput", "done"}


def test_damaged_compiled_files(cnn, tmp_path):
    out, path = tmp_path / "out.onnx", tmp_path / "m.onnx"
    bnncc.compile(cnn, output=out)
    sessions, inspected = Counter(), Counter()
    for content in damaged(out.read_bytes(), 1000, seed=12):
        path.write_bytes(content)
        sessions[outcome(lambda: load_and_run(path))] += 1
        inspected[outcome(lambda: bnncc.inspect(path))] += 1
    for counts in (sessions, inspected):
        assert counts["BadInput"] > 100
        assert counts["done"] > 100
        assert set(counts) == {"BadInput", "done"}


def test_sessions_of_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.onnx"
    for content in (b"", b"text", onnx.ModelProto().SerializeToString()):
        path.write_bytes(content)
        assert outcome(lambda: bnncc.InferenceSession(path)) == "BadInput"
    assert outcome(lambda: bnncc.InferenceSession(tmp_path / "none.onnx")) == "BadInput"
    assert outcome(lambda: bnncc.InferenceSession(b"text")) == "BadInput"
    assert issubclass(BadInput, BnnccError)
