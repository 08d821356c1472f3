"""The files that a run of training writes beside its checkpoint: its settings, and a line for each epoch."""

from __future__ import annotations

import json
from pathlib import Path

from bnncc.errors import BadInput
from bnncc.models.arguments import is_number, is_whole

CONFIG_NAME = "config.json"
LOG_NAME = "log.jsonl"


def read_log(run: Path) -> list[dict[str, float]]:
    """Read the log of a run, given its folder or the file. Raises BadInput for one that is not there, or is no log."""
    path = run / LOG_NAME if run.is_dir() else run
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a log of training: {error}") from error
    if not entries or not all(isinstance(entry, dict) and is_whole(entry.get("epoch")) for entry in entries):
        raise BadInput(f"{path}: not a log of training, or one without an epoch")
    for entry in entries:
        for name, value in entry.items():
            if not is_number(value):
                raise BadInput(f"{path}: not a log of training: {name} is {value!r}, not a number")
    return entries
