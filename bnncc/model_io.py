"""Reading and writing ONNX files: every way in which a file can be unusable is one clear line; writing is atomic."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import checker, external_data_helper, helper

from bnncc.errors import BadInput
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.passes.pack_weights import check_packed_weights
from bnncc.passes.prepare import KNOWN_DOMAINS, QUANTIZER_DOMAINS, STANDARD_DOMAINS
from bnncc.runtime.functions import DOMAIN

OLDEST_OPSET = 7
"""Before opset 7 broadcasting followed other rules, which onnxruntime does not promise to know."""

# A protobuf message cannot be larger; files over this keep their tensors in a second file.
LARGEST_PROTO = 2**31 - 1

# Fields of ModelProto (onnx.proto) by their wire type: 0 a varint, 2 a length and that many bytes.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


@dataclasses.dataclass
class LoadedModel:
    """A model with its weights in memory, and where it came from."""

    proto: onnx.ModelProto
    path: Path
    size: int
    """Bytes on disk, external data included."""
    source_sha256: str
    """Over the bytes of the file, then of each external data file in the order of their names."""
    external_files: list[Path]

    @property
    def is_compiled(self) -> bool:
        """Whether bnncc wrote this model."""
        return any(node.domain == DOMAIN for node in walk_nodes(self.proto.graph)) or any(
            entry.key == "bnncc.version" for entry in self.proto.metadata_props
        )


def walk_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from walk_nodes(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from walk_nodes(inner)


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read an ONNX file with its external data and check that this version of bnncc can work with it.

    Raises BadInput with one line that names the file, and the node where there is one.
    """
    path = Path(path)
    content = _read_file(path)
    proto = _parse(path, content)
    if not _is_text(proto):
        raise BadInput(f"{path}: a name in it is not text; the file is damaged")
    _check_opsets(path, proto)
    _check_domains(path, proto)
    external_files = _load_external_data(path, proto)
    _check_graph(path, proto)
    check_packed_weights(proto, str(path))

    digest = hashlib.sha256(content)
    size = len(content)
    for file in external_files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    return LoadedModel(proto, path, size, digest.hexdigest(), external_files)


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise BadInput(f"{path}: is a folder, not an ONNX file")
    try:
        size = path.stat().st_size
        if size > LARGEST_PROTO:
            raise BadInput(
                f"{path}: {size} bytes; an ONNX file holds at most 2 GB: larger models keep weights in external data"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot read: {error.strerror}") from error
    if not content:
        raise BadInput(f"{path}: the file is empty")
    return content


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        cause = "the file is truncated" if _looks_truncated(content) else "not an ONNX file"
        raise BadInput(f"{path}: {cause}") from error
    if proto.ir_version == 0 and not proto.HasField("graph"):
        raise BadInput(f"{path}: not an ONNX file")
    if not proto.HasField("graph") or not proto.graph.node:
        raise BadInput(f"{path}: the file holds no graph; it is truncated or not a whole model")
    if not proto.opset_import:
        raise BadInput(f"{path}: the file names no opset; it is truncated or not a whole model")
    return proto


def _is_text(message: Message) -> bool:
    """Return whether every string in a message is text: protobuf hands over what is not UTF-8 as bytes."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for item in (value,) if isinstance(value, (str, bytes, Message)) else value:
            if not (isinstance(item, str) if field.type == FieldDescriptor.TYPE_STRING else _is_text(item)):
                return False
    return True


def _looks_truncated(content: bytes) -> bool:
    """Return whether the bytes are fields of a ModelProto up to a last one that is longer than what is left."""
    position, fields = 0, 0
    while position < len(content):
        tag, position = _varint(content, position)
        if tag is None or _MODEL_FIELDS.get(tag >> 3) != tag & 7:
            return tag is None and fields > 0
        value, position = _varint(content, position)
        if value is None:
            return True
        if tag & 7 == 2:
            if position + value > len(content):
                # A text file can start with bytes that look like a field; ask for more, or for the graph itself.
                return fields > 0 or tag >> 3 == 7
            position += value
        fields += 1
    return False


def _varint(content: bytes, position: int) -> tuple[int | None, int]:
    """Decode protobuf's variable-length integer; None where the bytes end before it does."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            return None, position
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, position


@functools.cache
def _runtime_knows_opset(version: int) -> bool:
    """Ask onnxruntime itself: it says nowhere which standard opset is its newest."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    return _runtime_refusal(proto) is None


def _check_opsets(path: Path, proto: onnx.ModelProto) -> None:
    versions = [entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS]
    if not versions:
        raise BadInput(f"{path}: the model does not import the standard opset")
    version = versions[0]
    if version < OLDEST_OPSET:
        raise BadInput(
            f"{path}: opset {version} is too old: {OLDEST_OPSET} is the oldest supported; export again with a newer one"
        )
    if version > onnx.defs.onnx_opset_version() or not _runtime_knows_opset(version):
        raise BadInput(
            f"{path}: opset {version} is newer than onnx {onnx.__version__} and onnxruntime {onnxruntime.__version__} "
            "know; export again with an older one"
        )


def _check_domains(path: Path, proto: onnx.ModelProto) -> None:
    functions = {(function.domain, function.name) for function in proto.functions}
    known = {*KNOWN_DOMAINS, *QUANTIZER_DOMAINS, DOMAIN}
    for node in walk_nodes(proto.graph):
        if node.domain not in known and (node.domain, node.op_type) not in functions:
            raise BadInput(
                f"{path}: node {node.name or node.op_type!r}: no definition of {node.op_type} of domain {node.domain!r}"
            )


def _external_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph, and of the graphs inside it, whose values lie in another file."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                yield from _external_tensors(inner)
    yield from (tensor for tensor in tensors if external_data_helper.uses_external_data(tensor))


def _load_external_data(path: Path, proto: onnx.ModelProto) -> list[Path]:
    """Read external tensors into the model; return the files they lie in, sorted by name."""
    folder = path.resolve().parent
    files: set[Path] = set()
    for tensor in _external_tensors(proto.graph):
        where = f"{path}: weights of {tensor.name!r}"
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = info.get("location", "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise BadInput(f"{where}: external data must lie in the model's folder, not at {location!r}")
        if not file.is_file():
            raise BadInput(f"{where}: the external data file {location!r} is missing")
        try:
            offset, length = int(info.get("offset", 0)), int(info.get("length", 0))
        except ValueError as error:
            raise BadInput(f"{where}: external data has an offset or length that is no number") from error
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise BadInput(f"{where}: the external data file {location!r} is too short, or truncated")
        files.add(file)
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, checker.ValidationError) as error:
            raise BadInput(f"{where}: cannot read the external data: {one_line(error)}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return sorted(files)


def _check_graph(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse a graph that breaks ONNX's rules: a missing tensor, an unknown op, weights of the wrong length."""
    foreign = set(QUANTIZER_DOMAINS) - {entry.domain for entry in proto.opset_import}
    used = {node.domain for node in walk_nodes(proto.graph)}
    checked = proto
    if foreign & used:
        # Some exporters leave out the import of their own domain, which is of no consequence here.
        checked = onnx.ModelProto()
        checked.CopyFrom(proto)
        checked.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(foreign & used))
    if checked.ByteSize() > LARGEST_PROTO:
        return  # the checker takes a serialized model; onnxruntime checks this one when it is run
    try:
        checker.check_model(checked)
    except checker.ValidationError as error:
        cause: Exception | None = error
        if not used & set(QUANTIZER_DOMAINS):
            # The checker is stricter than what runs (nodes out of order, for one), and its reasons are not always
            # those of the failure: it asks an output without a shape for one.
            cause = _runtime_refusal(proto)
        if cause is not None:
            raise BadInput(f"{path}: not a valid model: {one_line(cause)}") from cause


def _runtime_refusal(proto: onnx.ModelProto) -> Exception | None:
    """Return why onnxruntime cannot load the model; None where it can."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        return error
    return None


def check_output_path(path: str | os.PathLike[str], inputs: list[Path]) -> Path:
    """Return `path` if a file may be written there.

    Raises BadInput where it is a folder or a device, where its folder does not exist, and where it is one of `inputs`.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path}: cannot write: it is a folder")
    if not path.parent.is_dir():
        raise BadInput(f"{path}: cannot write: the folder {path.parent} does not exist")
    if path.exists():
        if not path.is_file():
            raise BadInput(f"{path}: cannot write: it is not an ordinary file")
        if any(file.exists() and path.samefile(file) for file in inputs):
            raise BadInput(f"{path}: is the input; give another output, the input is never changed")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"{path}: cannot write: no permission in the folder {path.parent}")
    return path


@contextlib.contextmanager
def staging_folder(target: Path | None) -> Iterator[Path]:
    """Give a folder to write in before `publish`: beside `target`, as renaming is atomic within a file system.

    It is removed at the end, however that comes. Without a target it lies where temporary files do.
    """
    # Named before it is made: an interrupt just after that finds what to remove. Nobody else's has the same 64 bits.
    token = secrets.token_hex(8)
    if target is None:
        folder = Path(tempfile.gettempdir(), f"bnncc.{token}")
    else:
        folder = target.with_name(f".{target.name}.{token}.tmp")
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise BadInput(f"{target or tempfile.gettempdir()}: cannot write: {error.strerror}") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_model(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Write `proto` to `path`; with its tensors in `<name>.data` beside it when it is over LARGEST_PROTO bytes.

    Returns the files written, the model last. The tensors of `proto` stay in memory. Raises BadInput where the disk
    refuses.
    """
    files = [path]
    try:
        if proto.ByteSize() <= LARGEST_PROTO:
            onnx.save_model(proto, str(path))
        else:
            data = path.with_name(path.name + ".data")
            # save_model empties the tensors of what it is given.
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            onnx.save_model(copy, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
            files.insert(0, data)
    except OSError as error:
        raise BadInput(f"{path.name}: cannot write: {error.strerror}") from error
    return files


def publish(files: list[Path], target: Path) -> None:
    """Move staged files of `write_model` to their place beside `target`, the model last; each move is atomic."""
    try:
        for file in files:
            os.replace(file, target.with_name(file.name))
    except OSError as error:
        raise BadInput(f"{target}: cannot write: {error.strerror}") from error


def save_model(proto: onnx.ModelProto, path: str | os.PathLike[str], inputs: list[Path] | None = None) -> None:
    """Write a model atomically: after a failure the target is as it was. `inputs` are files never to overwrite."""
    target = check_output_path(path, inputs or [])
    with staging_folder(target) as folder:
        publish(write_model(proto, folder / target.name), target)


def write_text(text: str, path: str | os.PathLike[str], inputs: list[Path] | None = None) -> None:
    """Write a text file atomically, as `save_model` does."""
    target = check_output_path(path, inputs or [])
    with staging_folder(target) as folder:
        staged = folder / target.name
        try:
            staged.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{target}: cannot write: {error.strerror}") from error
        publish([staged], target)
