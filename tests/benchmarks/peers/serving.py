"""What the scripts of other engines share: they set a layer or a network up and time calls of it as the benchmark asks.

One line of JSON per request on stdin, one per answer on the stream that stdout was. A request with "subject" sets up:
arrays, .npy files by name; y, where to write what the engine gives for the array x, likewise. Of a layer the subject
has size, channels, batch and threads, the arrays are weight and x of +-1, float32 [M, C, 3, 3] and [N, C, size, size],
and y is float32 [N, M, size, size]; of a network the subject has model, an ONNX file, and threads, and the array is x,
its one input, whose one output is y. A request with "calls" is answered with "seconds".
"""

import json
import os
import sys
import time


def serve(engine, set_up):
    """Answer requests until stdin ends.

    `set_up(subject, **arrays)` returns (call, y): a function that runs the layer or the network, and its result; or
    (call, y, alone) where the engine knows how long the convolution alone took in the last call, which `alone()` then
    returns in seconds.
    """
    import numpy as np

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints is no answer
    call = alone = None
    for line in sys.stdin:
        request = json.loads(line)
        if "subject" in request:
            arrays = {name: np.load(file) for name, file in request["arrays"].items()}
            call, y, *rest = set_up(request["subject"], **arrays)
            alone = rest[0] if rest else None
            np.save(request["y"], y)
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
