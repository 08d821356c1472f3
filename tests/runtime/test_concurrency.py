"""One session, many threads of the caller."""

import threading

import numpy as np
import pytest
from op_models import session
from test_ops import CASES, same


@pytest.mark.parametrize(
    "op", ["BinaryConvDual", "BinaryConvStepsDual", "BinaryLinearDual", "MaxPoolSigns", "Binarize"]
)
def test_eight_threads_of_two_hundred_runs_give_the_same_bits(op):
    model, feeds = CASES[op](np.random.default_rng(1), op)
    made = session(model, threads=2)
    expected = made.run(None, feeds)
    different: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            if not all(same(a, b) for a, b in zip(made.run(None, feeds), expected, strict=True)):
                different.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert different == []
