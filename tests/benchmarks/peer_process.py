"""Other engines, each in a process with a Python of its own, that take turns with ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
from layer_cases import Shape, Signs

SCRIPTS = {"openvino": "openvino_layers.py", "larq": "larq_layers.py"}
PAD_VALUES = {"openvino": 0, "larq": 1}


class PeerError(Exception):
    """A peer's process ended; its stderr has said why."""


class Peer:
    """The process of one engine: `name`, a key of SCRIPTS; `python`, an interpreter that can import it."""

    def __init__(self, name: str, python: str) -> None:
        self.name, self.engine = name, name
        self.exact = True
        """Whether the sums were right so far; the benchmark finds out."""
        self.alone: list[float] = []
        """Seconds of the convolution alone in each call since the last set_up, where the engine tells."""
        script = Path(__file__).with_name("peers") / SCRIPTS[name]
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )

    def set_up(self, shape: Shape, weight: Signs, x: Signs, threads: int, folder: Path) -> Signs:
        """Set a layer up, and return what the engine gives for x, [N, M, size, size]."""
        files = {name: str(folder / f"{self.name}_{name}.npy") for name in ("weight", "x", "y")}
        np.save(files["weight"], weight)
        np.save(files["x"], x)
        layer = {"size": shape.size, "channels": shape.channels, "batch": len(x), "threads": threads, **files}
        self.engine = self._ask({"layer": layer})["engine"]
        self.alone = []
        return np.load(files["y"])

    def turn(self, calls: int) -> list[float]:
        """Return the seconds of so many calls, by the peer's clock."""
        answer = self._ask({"calls": calls})
        self.alone += answer["alone"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, request: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.name}: its process ended with status {self._process.wait(timeout=30)}")
        return json.loads(line)
