"""Larq Compute Engine: a binary QuantConv2D. Its padding is of +1, since its converter pads with signs only."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import larq as lq
import larq_compute_engine as lce
import numpy as np
import tensorflow as tf
from larq_compute_engine.tflite.python.interpreter import Interpreter
from serving import serve


def set_up(layer, weight, x):
    """Convert the layer. Images are [N, size, size, C], as TensorFlow has them; `predict` takes them one by one."""
    size, channels = layer["size"], layer["channels"]
    given = tf.keras.Input((size, size, channels), batch_size=1)
    conv = lq.layers.QuantConv2D(
        channels,
        3,
        padding="same",
        pad_values=1.0,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        use_bias=False,
    )
    model = tf.keras.Model(given, conv(given))
    conv.set_weights([weight.transpose(2, 3, 1, 0)])
    interpreter = Interpreter(lce.convert_keras_model(model), num_threads=layer["threads"])
    values = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    y = np.asarray(interpreter.predict(values))
    return lambda: interpreter.predict(values), y.reshape(layer["batch"], size, size, channels).transpose(0, 3, 1, 2)


serve("Larq Compute Engine", set_up)
