"""The README's examples: its Python, C and C++ code runs as it is written, its config is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builds import onnxruntime_headers

import bnncc
from bnncc.models import shipped_path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as the README supposes it: `model.onnx`, and `model.bnncc.onnx` compiled from it."""
    path = tmp_path_factory.mktemp("readme")
    (path / "model.onnx").write_bytes(shipped_path("vgg_small_fashion_mnist").read_bytes())
    bnncc.compile(path / "model.onnx", output=path / "model.bnncc.onnx")
    return path


@pytest.mark.parametrize("code", [code for code in blocks("python") if "torch" not in code], ids=lambda code: code[:40])
def test_python_code_runs(folder, code):
    done = run(code, folder)
    assert done.returncode == 0, done.stderr


def test_there_is_python_code_for_compiling_running_and_training():
    for words in ("bnncc.compile(", "register_custom_ops_library", "BinaryConv2d"):
        assert any(words in code for code in blocks("python"))


def test_training_code_runs(folder):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (code,) = (code for code in blocks("python") if "torch" in code)
    done = run(code, folder)
    assert done.returncode == 0, done.stderr


def test_config_is_one(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    config = bnncc.load_config(tmp_path / "c.toml")
    assert config.require_binary == "all"
    assert config.input_shapes == {"image": [-1, 1, 28, 28]}


# Programs around the README's code for C and C++: before it what it takes for granted; after it one image from stdin,
# and its logits to stdout.
C_PROGRAM = """
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    static float image[28 * 28], *logits;
    const OrtApi *ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    OrtEnv *env = NULL;
    OrtSession *session = NULL;
    if (ort == NULL || ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "test", &env) != NULL) return 2;
%s
    const int64_t shape[] = {1, 1, 28, 28};
    const char *inputs[] = {"image"}, *outputs[] = {"logits"};
    OrtMemoryInfo *memory = NULL;
    OrtValue *x = NULL, *y = NULL;
    if (fread(image, sizeof image, 1, stdin) != 1) return 3;
    if (ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory) != NULL) return 4;
    if (ort->CreateTensorWithDataAsOrtValue(memory, image, sizeof image, shape, 4,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &x) != NULL) return 5;
    if (ort->Run(session, NULL, inputs, (const OrtValue *const *)&x, 1, outputs, 1, &y) != NULL) return 6;
    if (ort->GetTensorMutableData(y, (void **)&logits) != NULL) return 7;
    return fwrite(logits, sizeof(float), 10, stdout) == 10 ? 0 : 8;
}
"""

CPP_PROGRAM = """
#include <onnxruntime_cxx_api.h>
#include <cstdio>
#include <vector>

int main() try {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "test");
%s
    const std::vector<int64_t> shape = {1, 1, 28, 28};
    const char *const inputs[] = {"image"}, *const outputs[] = {"logits"};
    std::vector<float> image(28 * 28);
    if (std::fread(image.data(), sizeof(float), image.size(), stdin) != image.size()) return 3;
    Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value x = Ort::Value::CreateTensor<float>(memory, image.data(), image.size(), shape.data(), shape.size());
    std::vector<Ort::Value> y = session.Run(Ort::RunOptions{}, inputs, &x, 1, outputs, 1);
    return std::fwrite(y[0].GetTensorData<float>(), sizeof(float), 10, stdout) == 10 ? 0 : 8;
} catch (const Ort::Exception &error) {
    std::fprintf(stderr, "%%s\\n", error.what());
    return 1;
}
"""


@pytest.fixture(params=["c", "cpp"])
def program(request, folder, tmp_path):
    """Build the README's code with the library's path put in; returns a function from that path to the program."""
    headers = onnxruntime_headers()
    shared = [*Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")]
    if not shared:
        pytest.skip(f"the wheel of onnxruntime {onnxruntime.__version__} has no libonnxruntime.so to link with")
    language, around, compiler, standard = {
        "c": ("c", C_PROGRAM, os.environ.get("CC", "cc"), "-std=c17"),
        "cpp": ("c++", CPP_PROGRAM, os.environ.get("CXX", "c++"), "-std=c++17"),
    }[request.param]
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler {compiler}")
    (tmp_path / "libonnxruntime.so.1").symlink_to(shared[0])  # under the name by which programs look for it
    (tmp_path / "model.bnncc.onnx").write_bytes((folder / "model.bnncc.onnx").read_bytes())
    (code,) = blocks(request.param)

    def build(library: Path) -> Path:
        located = code.replace("/opt/app/lib/libbnncc.so", str(library))
        assert located != code
        command = [compiler, standard, "-Wall", "-Wextra", "-Werror", "-isystem", headers, "-x", language, "-"]
        command += [
            "-x",
            "none",
            tmp_path / "libonnxruntime.so.1",
            f"-Wl,-rpath,{tmp_path}",
            "-o",
            tmp_path / "program",
        ]
        done = subprocess.run(command, input=around % located, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path / "program"

    return build


def test_c_and_cpp_code_runs_the_kernels(program, tmp_path):
    model = onnx.load(tmp_path / "model.bnncc.onnx")
    del model.functions[:]  # without the library there is nothing to run now
    onnx.save(model, tmp_path / "model.bnncc.onnx")
    with pytest.raises(bnncc.BadInput):
        bnncc.InferenceSession(tmp_path / "model.bnncc.onnx", library=False)
    image = np.random.default_rng(0).standard_normal((1, 1, 28, 28), np.float32)
    done = subprocess.run([program(bnncc.library_path())], cwd=tmp_path, input=image.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    (expected,) = bnncc.InferenceSession(tmp_path / "model.bnncc.onnx", threads=1).run(None, {"image": image})
    # The float layers at both ends are those of one onnxruntime, so that even floats are the same.
    assert done.stdout == expected.tobytes()


def test_c_and_cpp_code_says_what_failed(program, tmp_path):
    done = subprocess.run([program(tmp_path / "no.so")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no.so" in done.stderr


def test_c_library_is_named_by_a_path():
    """dlopen looks for a bare file name in the system's folders only."""
    code = blocks("c") + blocks("cpp")
    assert code
    assert not re.search(r'"libbnncc\.so"', "".join(code))
