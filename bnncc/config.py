"""What a compilation does and which gates it must pass: the `Config` dataclass and its TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from bnncc.errors import BadInput

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library has it from 3.11 on
    import tomli as tomllib


MOST_THREADS = 1024  # onnxruntime starts as many as it is told to, however long that takes


@dataclasses.dataclass(kw_only=True)
class Config:
    """Options of `bnncc.compile`; a TOML file has the same names at its top level, `input_shapes` as a table.

    Raises BadInput for a value of the wrong type or out of range.
    """

    tropnnc: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Merge hidden channels of float ReLU layers that do nearly the same: an amount (keep, v1, v2, v3, target_params or
    target_flops), mode, seed, radius, and other amounts by pattern of layers' names (see `bnncc.passes.tropnnc`)."""
    binarize: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Give float layers weights of two values per filter: method ("dab", "bihalf", "xnor"), layers (patterns of names;
    none: all but the first and the last), calibrate (true: re-estimate statistics on the data)."""
    fold_batchnorm: bool = True
    """Fold BatchNormalization into the float layer before it."""
    lower: bool = True
    """Replace binary layers by the packed kernels; without it the graph is only cleaned and folded."""
    fuse_epilogues: bool = True
    """Make what follows a binary convolution (shortcuts, activations, binarizers) steps of its op."""
    tree: bool = True
    """Give binary convolutions a tree over their filters, for kernels that count along it, and count what it saves."""
    tree_shared_root: bool = True
    """Let all filters follow from the filter of zeros, which costs nothing; else one filter costs all its bits."""
    tree_complement: bool = True
    """Let a filter's complement stand for it where that is nearer."""
    tree_steiner: bool = True
    """Add virtual filters, which give no output, where they lower the total."""
    tree_ripple: int = 24
    """Price of an edge of the tree beside its differing bits, in bits: what adding a count to the parent's takes."""
    tree_max_depth: int | None = None
    """Most edges between the root and a filter; none for any number."""
    pack_weights: bool = True
    """Store weights of float layers that take two values per filter as bits, where that makes the file smaller; not
    without `lower`."""
    tune: bool = False
    """Time every kernel for each binary convolution, on one thread, and name the fastest in the file."""
    tune_batch: int = 1
    """Samples of a call while timing."""
    verify: bool = True
    """Compare the compiled model with the original before it is written."""
    verify_samples: int = 32
    """Seeded random samples to verify on, beside the data that is given."""
    seed: int = 0
    """Seed of the random inputs."""
    threads: int = 1
    """Threads of onnxruntime in verification and measurement. 0: as many as onnxruntime likes."""
    input_shapes: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """Shape per input name; a positive number fixes a dynamic dimension, -1 leaves it as it is."""
    min_argmax_agreement: float | None = None
    """Gate: smallest share (0 to 1) of samples on which both models name the same class."""
    max_abs_diff: float | None = None
    """Gate: largest absolute difference of the outputs, over the samples without near-ties."""
    max_rel_diff: float | None = None
    """Gate: as `max_abs_diff`, against the largest magnitude of the output; it takes the place of the limit that
    verification has of its own, `bnncc.verification.MAX_REL_DIFF`."""
    min_speedup: float | None = None
    """Gate: smallest ratio of the original's median time to the compiled model's."""
    require_binary: str | None = None
    """Gate: "all" fails the compilation when a layer that could be binary is not."""

    def __post_init__(self) -> None:
        for name in (
            "fold_batchnorm", "lower", "fuse_epilogues", "tree", "tree_shared_root", "tree_complement", "tree_steiner",
            "pack_weights", "tune", "verify",
        ):  # fmt: skip
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"config: {name} must be true or false, not {getattr(self, name)!r}")
        whole = [("verify_samples", 1), ("seed", 0), ("threads", 0), ("tree_ripple", 0), ("tune_batch", 1)]
        if self.tree_max_depth is not None:
            whole.append(("tree_max_depth", 1))
        for name, least in whole:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"config: {name} must be a whole number of at least {least}, not {value!r}")
        if self.threads > MOST_THREADS:
            raise BadInput(f"config: threads must be at most {MOST_THREADS}, not {self.threads}")
        numbers = {"min_argmax_agreement": 1.0, "max_abs_diff": None, "max_rel_diff": None, "min_speedup": None}
        for name, most in numbers.items():
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not value >= 0 or (most is not None and value > most):
                limits = "of at least 0" if most is None else f"between 0 and {most:g}"
                raise BadInput(f"config: {name} must be a number {limits}, not {value!r}")
        if self.require_binary not in (None, "all"):
            raise BadInput(f'config: require_binary can only be "all", not {self.require_binary!r}')
        if not isinstance(self.tropnnc, dict):
            raise BadInput("config: tropnnc must be a table such as {keep = 0.5}")
        if self.tropnnc:
            from bnncc.passes.tropnnc.settings import read_settings  # heavy to import

            read_settings(self.tropnnc)
        if not isinstance(self.binarize, dict):
            raise BadInput('config: binarize must be a table such as {method = "dab"}')
        if self.binarize:
            from bnncc.passes.binarize_weights import read_settings

            read_settings(self.binarize)
        if not isinstance(self.input_shapes, dict):
            raise BadInput("config: input_shapes must be a table such as {image = [-1, 3, 224, 224]}")
        for name, shape in self.input_shapes.items():
            valid = isinstance(shape, list) and all(
                isinstance(size, int) and not isinstance(size, bool) and (size > 0 or size == -1) for size in shape
            )
            if not isinstance(name, str) or not valid:
                raise BadInput(
                    f"config: input_shapes.{name} must be a list of positive numbers, or -1 to leave one dynamic, "
                    f"not {shape!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """All options as values that JSON can hold."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> Config:
        """Return a copy with some options changed, checked again."""
        return dataclasses.replace(self, **changes)


Function = TypeVar("Function", bound=Callable[..., Any])


def checks_config(function: Function) -> Function:
    """Wrap a function so that an argument `config` that is neither None nor a `Config` raises BadInput."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        config = signature.bind(*arguments, **keywords).arguments.get("config")
        if config is not None and not isinstance(config, Config):
            raise BadInput(
                f"config: must be a bnncc.Config (bnncc.load_config reads one from a file), not {type(config).__name__}"
            )
        return function(*arguments, **keywords)

    return checked


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a TOML file of `Config` options.

    Raises BadInput, naming the file, for a missing file, for what is not TOML, and for an unknown or invalid option.
    """
    path = Path(path)
    values = read_toml(path, [field.name for field in dataclasses.fields(Config)])
    try:
        return Config(**values)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def read_toml(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a TOML file whose top level has some of the `known` keys.

    Raises BadInput, naming the file, for a missing file, for what is not TOML, and for another key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a TOML file: {error}") from error
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise BadInput(f"{path}: unknown option {key!r}; {hint}")
    return values
