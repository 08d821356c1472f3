"""Whether the library chooses the fastest kernel: every kernel's time and estimate on twenty binary convolutions.

    python tests/benchmarks/kernel_choice.py [--isa avx512vpopcntdq avx2 ...]

Filters are like trained ones: variants of an eighth as many, an edge of the tree being about a quarter of their bits; a
fifth of the signs in a map differ from the others. The figures that estimates are made of are in
runtime/src/conv_kernel.c.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from bnncc import runtime
from bnncc.passes.filter_tree import engine_tree
from bnncc.timing import interleave, turn

# Input and output channels, kernel, size of the map, batch.
LAYERS = [
    (64, 64, 1, 56, 1), (64, 128, 1, 28, 1), (16, 64, 1, 56, 1), (64, 64, 1, 28, 4), (256, 64, 1, 56, 1),
    (256, 256, 1, 14, 1), (512, 512, 1, 7, 1), (16, 16, 3, 64, 1), (64, 64, 3, 56, 1), (32, 32, 3, 32, 1),
    (128, 128, 3, 28, 1), (96, 96, 3, 20, 1), (128, 128, 3, 16, 1), (256, 256, 3, 14, 1), (48, 96, 3, 12, 1),
    (128, 128, 3, 8, 1), (512, 512, 3, 7, 1), (64, 64, 3, 28, 8), (256, 256, 3, 14, 8), (512, 512, 3, 7, 8),
]  # fmt: skip
DIFFERING = 0.2
CALLS, SECONDS = 4, 0.15


def measure(isa: str, layer: tuple[int, int, int, int, int], floats: bool, seed: int = 0) -> tuple[str, float]:
    """Return a line on a layer, and how many times as long as the fastest kernel the chosen one takes."""
    channels, filters, kernel, size, batch = layer
    rng = np.random.default_rng(seed)
    length = channels * kernel**2
    base = rng.choice([-1.0, 1.0], (max(1, filters // 8), length))
    signs = base[rng.integers(len(base), size=filters)] * np.where(rng.random((filters, length)) < 0.18, -1, 1)
    weight = runtime.pack_signs(signs.astype(np.float32))
    found = engine_tree(weight, length)
    tree = runtime.ConvTree([len(found.parents)], found.parents, found.flipped[:filters])
    most = rng.random((1, channels, 1, 1)) < 0.5
    maps = np.where((rng.random((batch, channels, size, size)) < DIFFERING) ^ most, -1, 1)
    x = runtime.pack_signs(maps.astype(np.float32))
    epilogue = {"scale": 0.5, "shift": 1.0} if floats else {"threshold": np.zeros(filters, np.int32)}

    def conv(name: str) -> runtime.Conv2d:
        return runtime.Conv2d(
            weight, weight_shape=(filters, channels, kernel, kernel), width=size, pads=(kernel // 2,) * 4, pad_value=0,
            tree=tree, kernel=name, isa=isa, **epilogue,
        )  # fmt: skip

    estimates = conv("auto").estimates(batch, size, DIFFERING)
    layers = [conv(name) for name in ("auto", *estimates)]
    turns = [turn(made.bind(x)[0], CALLS) for made in layers]
    chosen, *times = (1e6 * median(seconds) for seconds in interleave(turns, min_time=SECONDS))
    loss = chosen / min(times)
    kernels = ", ".join(
        f"{name} {time:.1f} ({1e6 * estimate:.0f})"
        for (name, estimate), time in zip(estimates.items(), times, strict=True)
    )
    shape = f"{channels}>{filters} {kernel}x{kernel} {size}x{size} batch {batch}"
    return f"{shape:<32} {'float' if floats else 'bits':<6} {chosen:7.1f} {loss:5.2f}x  {kernels}", loss


def main() -> None:
    """Print a line for each layer and kind of output, by instruction set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", nargs="+", choices=runtime.isas(), default=runtime.isas(), help="[all of this CPU]")
    for isa in parser.parse_args().isa:
        print(f"{isa}: microseconds as chosen, against the fastest; each kernel's, in brackets its estimate")
        losses = []
        for layer in LAYERS:
            for floats in (False, True):
                line, loss = measure(isa, layer, floats)
                losses.append(loss)
                print(" ", line, flush=True)
        print(f"  the chosen kernel takes at most {max(losses):.2f} times as long as the fastest")


if __name__ == "__main__":
    main()
