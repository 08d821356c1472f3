"""Sessions: options that are shared, models in memory, with and without the library, many threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

import bnncc
from bnncc import BadInput


@pytest.fixture
def compiled(cnn, tmp_path):
    bnncc.compile(cnn, output=tmp_path / "compiled.onnx")
    return tmp_path / "compiled.onnx"


@pytest.fixture
def image():
    return np.random.default_rng(2).standard_normal((3, 3, 8, 8), dtype=np.float32)


def test_options_can_be_shared(compiled, image):
    options = onnxruntime.SessionOptions()
    assert bnncc.register(options) is options
    sessions = [bnncc.InferenceSession(compiled, sess_options=bnncc.register(options)) for _ in range(2)]
    sessions.append(onnxruntime.InferenceSession(compiled, options))
    results = [session.run(None, {"image": image})[0] for session in sessions]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_path_of_the_library_is_what_onnxruntime_takes(compiled, image):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(bnncc.library_path())
    (plain,) = onnxruntime.InferenceSession(compiled, options).run(None, {"image": image})
    np.testing.assert_array_equal(plain, bnncc.InferenceSession(compiled).run(None, {"image": image})[0])


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"nope\.onnx: no such file$"):
        bnncc.InferenceSession(tmp_path / "nope.onnx")


def test_from_memory_and_by_functions(compiled, image):
    by_path = bnncc.InferenceSession(compiled, threads=1)
    by_bytes = bnncc.InferenceSession(compiled.read_bytes(), threads=1)
    by_functions = bnncc.InferenceSession(compiled, threads=1, library=False)
    expected = by_path.run(None, {"image": image})[0]
    np.testing.assert_array_equal(by_bytes.run(None, {"image": image})[0], expected)
    np.testing.assert_allclose(by_functions.run(None, {"image": image})[0], expected, rtol=1e-5, atol=1e-5)
    assert by_path.get_session_options().intra_op_num_threads == 1


def test_many_threads_on_one_session(compiled, image):
    session = bnncc.InferenceSession(compiled, threads=2)
    expected = session.run(None, {"image": image})[0].tobytes()
    with ThreadPoolExecutor(8) as pool:
        runs = pool.map(lambda _: session.run(None, {"image": image})[0].tobytes() == expected, range(8 * 200))
    assert all(runs)


def test_library_that_is_not_there(compiled, monkeypatch):
    monkeypatch.setenv("BNNCC_LIBRARY", "/nowhere/libbnncc.so")
    with pytest.raises(BadInput, match=r"/nowhere/libbnncc\.so: no such file"):
        bnncc.InferenceSession(compiled)
