"""Filters to make trees of, packed and not, and their distances by definition."""

import numpy as np


def pack(signs):
    return np.packbits(signs, axis=1, bitorder="little")


def unpack(bits, length):
    return np.unpackbits(bits, axis=1, count=length, bitorder="little").astype(np.int64)


def some_filters(seed, count, length, kind="random"):
    """bool [count, length]: random, around a centre, or with equal, complementary and constant ones among them."""
    random = np.random.default_rng(seed)
    flips = random.random((count, length)) < (0.5 if kind == "random" else 0.12)
    signs = (random.random(length) < 0.5) ^ flips
    if kind == "equal" and count > 5:
        signs[1], signs[2], signs[3], signs[4], signs[5] = signs[0], ~signs[0], signs[0], False, True
    return signs


def brute_distances(a, b):
    return (a[:, None, :] != b[None, :, :]).sum(axis=2)
