"""The limit of the bit-plane kernel: its logic instructions on registers alone, compiled and timed on this machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "runtime"
COUNT_SOURCES = {"avx2": "count_avx2.c", "avx512bw": "count_avx512.c", "avx512vpopcntdq": "count_avx512.c"}

ADDERS_OF_A_ROUND = 10
ROUNDS = 5_000  # some ten microseconds


class LogicLimit:
    """Full adders of one instruction set on registers; each plane that is counted takes one.

    Needs a C compiler, `$CC` or cc; raises subprocess.CalledProcessError with the compiler's messages on stderr.
    """

    def __init__(self, isa: str, folder: Path) -> None:
        file = folder / f"logic_limit_{isa}.so"
        source = Path(__file__).with_name("logic_limit.c")
        count_source = SOURCES / "src" / "planes" / COUNT_SOURCES[isa]
        folders = [f"-I{SOURCES / name}" for name in ("include", "src", "src/planes")]
        options = ["-O2", "-shared", "-fPIC", f'-DCOUNT_SOURCE="{count_source}"', *folders]
        subprocess.run([os.environ.get("CC", "cc"), *options, str(source), "-o", str(file)], check=True)
        self._library = ctypes.CDLL(str(file))
        self._library.add_on_registers.argtypes = [ctypes.c_size_t]
        self._library.lane_bytes.restype = ctypes.c_size_t
        self.lane_bits = 8 * self._library.lane_bytes()

    def run(self) -> None:
        """Make the adders of ROUNDS rounds, without Python's lock."""
        self._library.add_on_registers(ROUNDS)

    def planes_per_ns(self, seconds: float) -> float:
        """Return how many planes a nanosecond one run stands for, that took so long."""
        return ROUNDS * ADDERS_OF_A_ROUND / seconds / 1e9


def gain_of_threads(limit: LogicLimit, threads: int, seconds: float = 0.3) -> float:
    """Return how many times the logic instructions of one thread so many make together.

    About `threads` where each has a core of its own, about 1 where they share one.
    """

    def rate(count: int) -> float:
        done = [0] * count
        begin = time.perf_counter()

        def work(index: int) -> None:
            while time.perf_counter() - begin < seconds:
                limit.run()
                done[index] += 1

        workers = [threading.Thread(target=work, args=(index,)) for index in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(done) / (time.perf_counter() - begin)

    alone = rate(1)
    return rate(threads) / alone
