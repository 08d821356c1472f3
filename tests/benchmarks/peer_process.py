"""Other engines, each in a process with a Python of its own, that take turns with ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# In peers/, by engine.
LAYER_SCRIPTS = {"openvino": "openvino_layers.py", "larq": "larq_layers.py"}
NETWORK_SCRIPTS = {"openvino": "openvino_networks.py"}
PAD_VALUES = {"openvino": 0, "larq": 1}


class PeerError(Exception):
    """A peer's process ended; its stderr has said why."""


class Peer:
    """The process of one engine: its `script`, a file in peers/; `python`, an interpreter that has the engine."""

    def __init__(self, name: str, python: str, script: str) -> None:
        self.name, self.engine = name, name
        self.exact = True
        """Whether the sums were right so far; the benchmark finds out."""
        self.alone: list[float] = []
        """Seconds of the convolution alone in each call since the last set_up, where the engine tells."""
        path = Path(__file__).with_name("peers") / script
        self._process = subprocess.Popen(
            [python, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )

    def set_up(self, subject: dict[str, object], arrays: dict[str, NDArray], folder: Path) -> NDArray:
        """Set up what is to be timed, a layer or a network as the script takes it, and return its result for x."""
        files = {name: str(folder / f"{self.name}_{name}.npy") for name in (*arrays, "y")}
        for name, values in arrays.items():
            np.save(files[name], values)
        y = files.pop("y")
        self.engine = self._ask({"subject": subject, "arrays": files, "y": y})["engine"]
        self.alone = []
        return np.load(y)

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
