"""Time binary layers, alone and against other engines, and what saved bit operations save in time.

    python tests/benchmarks [--json F] [--plot F.png] [--openvino-python P] [--larq-python P] [--only layers|savings]

Four 3x3 layers of binary ResNets with three kinds of filters, batch 1 and 8, one and two threads: see layers.py and
savings.py. Takes about three minutes, and a few more with other engines. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import layers
import onnxruntime
import savings
from layer_cases import BATCHES, SHAPES, Shape, trained_layers
from logic_limit import COUNT_SOURCES, LogicLimit, gain_of_threads
from peer_process import LAYER_SCRIPTS, Peer, PeerError

from bnncc import runtime
from bnncc.errors import BnnccError
from bnncc.timing import cpu_count, cpu_name


def main() -> None:
    """Print the tables, and write the files that were asked for."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [Shape(*shape).name for shape in SHAPES]
    parser.add_argument("--only", choices=["layers", "savings"])
    parser.add_argument("--shape", choices=names, nargs="+", default=names)
    parser.add_argument("--batch", type=int, nargs="+", choices=range(1, 9), default=BATCHES, metavar="N")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument(
        "--kernels", nargs="+", default=[], metavar="K", help="values of BNNCC_KERNEL to time as well, such as dot"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each group that takes turns [2]")
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw time against differing bits (matplotlib)")
    for name in LAYER_SCRIPTS:
        variable = f"BNNCC_{name.upper()}_PYTHON"
        parser.add_argument(
            f"--{name}-python", metavar="P", default=os.environ.get(variable), help=f"a Python with it [${variable}]"
        )
    arguments = parser.parse_args()
    try:
        with ExitStack() as stack:
            _run(arguments, stack)
    except (BnnccError, PeerError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"benchmarks: {error}")


def _run(arguments: argparse.Namespace, stack: ExitStack) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    isa = runtime.selected_isa()
    limit = LogicLimit(isa, folder) if isa in COUNT_SOURCES else None
    machine = {"device": cpu_name(), "isa": isa, "onnxruntime": onnxruntime.__version__, "cpus": cpu_count()}
    print(f"{machine['device']} ({isa}), onnxruntime {machine['onnxruntime']}, {machine['cpus']} CPUs")
    if limit and cpu_count() > 1:
        gain = machine["logic_gain_of_two_threads"] = gain_of_threads(limit, 2)
        print(
            f"Two threads together make {gain:.2f} times the logic instructions of one: "
            + ("they have a core each." if gain > 1.5 else "they share a core's units (or other work is in the way).")
        )
    if trained_layers() is None:
        print("No trained layers: the folder BNNCC_DATA has no models/imagenet-bnn-layers.")
    result = {"machine": machine}
    if arguments.only != "savings":
        peers = [
            Peer(name, python, script)
            for name, script in LAYER_SCRIPTS.items()
            if (python := getattr(arguments, f"{name}_python"))
        ]
        for peer in peers:
            stack.callback(peer.close)
        rows = []
        for shape in (Shape(*shape) for shape in SHAPES):
            if shape.name in arguments.shape:
                print(f"{shape.name} ...", file=sys.stderr, flush=True)
                rows += layers.measure_shape(
                    shape,
                    arguments.batch,
                    arguments.threads,
                    arguments.kernels,
                    peers,
                    limit,
                    arguments.seconds,
                    folder,
                )
        layers.print_rows(rows)
        for peer in peers:
            if not peer.exact:
                print(f"{peer.engine} gave wrong sums on this machine.")
        result["layers"] = layers.as_json(rows)
        result["peers"] = {peer.engine: {"exact": peer.exact} for peer in peers}
    if arguments.only != "layers":
        saved = savings.measure(limit, arguments.seconds)
        savings.print_savings(saved)
        result["savings"] = savings.as_json(saved)
        if arguments.plot:
            savings.plot(saved, f"{machine['device']} ({isa})", arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
