"""Sign of a sum that is exactly 0 now and then: not a binarizer, whatever lies between the layer and the Sign."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import Network, feed, session

from bnncc.config import Config
from bnncc.passes import run_passes

BETWEEN = {
    "directly": lambda n, y: y,
    "channel shuffle": lambda n, y: n.op(
        "Reshape",
        n.op("Transpose", n.op("Reshape", y, n.constant(np.array([2, 2, 2, 6, 6]))), perm=[0, 2, 1, 3, 4]),
        n.constant(np.array([2, 4, 6, 6])),
    ),
    "slice": lambda n, y: n.op("Slice", y, *(n.constant(np.array([value])) for value in (0, 4, 1))),
    "concat": lambda n, y: n.op("Slice", n.op("Concat", y, y, axis=1), *(n.constant(np.array([v])) for v in (2, 6, 1))),
    "resize": lambda n, y: n.op("Resize", y, "", n.constant(np.array([1, 1, 2, 2], np.float32))),
    "square": lambda n, y: n.op("Mul", y, y),
    "prelu beside": lambda n, y: n.op("Add", y, n.op("PRelu", y, n.constant(np.array([0.25], np.float32)))),
    "maximum": lambda n, y: n.op("Max", y, n.op("PRelu", y, n.constant(np.array([0.25], np.float32)))),
    "max pool": lambda n, y: n.op("MaxPool", y, kernel_shape=[2, 2]),
    "global max pool": lambda n, y: n.op("GlobalMaxPool", y),
    "scaled and moved": lambda n, y: n.op("Transpose", n.op("Mul", y, n.scalar(0.5)), perm=[0, 1, 3, 2]),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_sums_that_can_be_zero(between):
    """Of 36 products of signs, even sums occur: Sign is 0 there."""
    n = Network(seed=3)
    y = n.conv(n.binarize(n.input([2, 4, 8, 8])), n.signs(4, 4, 3, 3))
    z = n.conv(n.op("Sign", BETWEEN[between](n, y)), n.signs(3, 4, 1, 1))
    model, feeds = n.model(z), feed(shape=(2, 4, 8, 8))
    outcome = run_passes(model, Config())
    assert [layer.status for layer in outcome.layers] == ["binary", "weight-binary"]
    texts = [note.text for record in outcome.passes for note in record.notes]
    assert any(text.startswith("not a binarizer: Sign of a value that can be exactly 0") for text in texts)
    expected = session(model, library=False).run(None, feeds)[0]
    np.testing.assert_array_equal(session(outcome.model, library=True).run(None, feeds)[0], expected)


def test_sums_that_cannot_be_zero():
    """Of 27 products there are odd sums only, also where they are moved about."""
    n = Network(seed=3)
    y = n.conv(n.binarize(n.input([2, 3, 8, 8])), n.signs(4, 3, 3, 3))
    z = n.conv(n.op("Sign", BETWEEN["channel shuffle"](n, y)), n.signs(3, 4, 1, 1))
    model, feeds = n.model(z), feed(shape=(2, 3, 8, 8))
    outcome = run_passes(model, Config())
    assert [layer.status for layer in outcome.layers] == ["binary", "binary"]
    expected = session(model, library=False).run(None, feeds)[0]
    np.testing.assert_array_equal(session(outcome.model, library=True).run(None, feeds)[0], expected)
