"""What the scripts of other engines share: they set a layer up and time calls of it as the benchmark asks.

One line of JSON per request on stdin, one per answer on the stream that stdout was. A request with "layer" sets up:
size, channels, batch and threads; weight and x, .npy files of +-1, float32 [M, C, 3, 3] and [N, C, size, size]; y,
where to write what the engine gives for x, float32 [N, M, size, size]. One with "calls" is answered with "seconds".
"""

import json
import os
import sys
import time


def serve(engine, set_up):
    """Answer requests until stdin ends.

    `set_up(layer, weight, x)` returns (call, y): a function that runs the layer, and its result; or (call, y, alone)
    where the engine knows how long the convolution alone took in the last call, which `alone()` then returns in
    seconds.
    """
    import numpy as np

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    call = alone = None
    for line in sys.stdin:
        request = json.loads(line)
        if "layer" in request:
            layer = request["layer"]
            call, y, *rest = set_up(layer, np.load(layer["weight"]), np.load(layer["x"]))
            alone = rest[0] if rest else None
            np.save(layer["y"], y)
            answer = {"engine": engine}
        else:
            seconds, seconds_alone = [], []
            call()
            for _ in range(request["calls"]):
                begin = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - begin)
                if alone is not None:
                    seconds_alone.append(alone())
            answer = {"seconds": seconds, "alone": seconds_alone}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
