"""The library's functions on trees over binary filters, on NumPy arrays; bnncc.h says more about each.

Filters are packed signs, uint8 [filters, ceil(length / 8)] of `length` bits each; unused bits are ignored. Parents are
int32, one per node, -1 for a node that has none. Errors in the arguments raise bnncc.errors.BadInput.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnncc.errors import BadInput
from bnncc.runtime.binding import Packed, _in, _isa_number, _out, _packed
from bnncc.runtime.library import check, interface, library

Indices = NDArray[np.int32]
Flags = NDArray[np.bool_]


def hamming_distances(a: Packed, b: Packed, length: int, isa: str = "auto") -> NDArray[np.int32]:
    """Return int32 [A, B]: in how many bits filter i of `a` and filter j of `b` differ."""
    lib, error = library(), interface().new("bnncc_error *")
    a, b = _packed(a, "a", length, rank=2), _packed(b, "b", length, rank=2)
    distances = np.empty((len(a), len(b)), np.int32)
    if distances.size:
        status = lib.bnncc_hamming_distances(
            _in(a), len(a), _in(b), len(b), length, _out(distances), _isa_number(isa), error
        )
        check(status, error)
    return distances


def steiner_tree(
    filters: Packed, length: int, *, complement: bool, sweeps: int, isa: str = "auto"
) -> tuple[Indices, Flags, int]:
    """Search a tree with virtual filters over three or more filters, filter 0 its root and the others its leaves.

    `complement`: filters other than filter 0 may be replaced by their complements; `sweeps`: how often every branch is
    tried in every other place, at most. Returns (parents int32 [2n - 2], flipped bool [n], the differing bits along the
    tree); nodes from n on are virtual filters.
    """
    ffi, lib = interface(), library()
    filters = _packed(filters, "filters", length, rank=2)
    if not 0 <= sweeps < 2**31:
        raise BadInput(f"sweeps is {sweeps}, outside [0, 2**31 - 1]")
    params = ffi.new("bnncc_steiner_params *")
    params.count, params.length, params.complement, params.sweeps = len(filters), length, complement, sweeps
    parents = np.full(max(2 * len(filters) - 2, 0), -1, np.int32)
    flipped = np.zeros(len(filters), np.uint8)
    bits, error = ffi.new("int64_t *"), ffi.new("bnncc_error *")
    status = lib.bnncc_steiner_tree(
        params, _in(filters), _out(parents), _out(flipped), bits, _isa_number(isa), error
    )  # fmt: skip
    check(status, error)
    return parents, flipped.astype(bool), bits[0]


def virtual_filters(filters: Packed, length: int, parents: Indices, flipped: Flags, *, shared_root: bool) -> Packed:
    """Return what the nodes of a tree count, uint8 [N, ceil(length / 8)], from its filters and its shape.

    `parents`: int32 [N]; with `shared_root`, -1 is the filter of zeros. `flipped`: bool, for each of the M filters at
    least, whether node j < M is filter j's complement. Nodes from M on are virtual: they are those filters that make
    the differing bits along the tree fewest, and where several do, a bit is as in the parent.
    """
    filters = _packed(filters, "filters", length, rank=2)
    parents = _parents(parents)
    turned = np.ascontiguousarray(flipped[: len(filters)], np.uint8)
    if len(turned) != len(filters):
        raise BadInput(f"flipped has {len(turned)} values, not one for each of {len(filters)} filters")
    bits, error = np.empty((len(parents), filters.shape[1]), np.uint8), interface().new("bnncc_error *")
    status = library().bnncc_virtual_filters(
        _in(filters), len(filters), length, _in(parents), _in(turned), len(parents), shared_root, _out(bits), error
    )
    check(status, error)
    return bits


def schedule(parents: Indices) -> tuple[Indices, Indices]:
    """Return (order, slots), int32 [N] each: in which order a kernel counts a tree's nodes, and in which counters.

    Every node comes after its parent, depth first; a node whose slot is its parent's replaces it there.
    """
    parents = _parents(parents)
    order, slots = np.empty_like(parents), np.empty_like(parents)
    slot_count, error = interface().new("int32_t *"), interface().new("bnncc_error *")
    status = library().bnncc_tree_schedule(_in(parents), len(parents), _out(order), _out(slots), slot_count, error)
    check(status, error)
    return order, slots


def _parents(parents: Indices) -> Indices:
    parents = np.ascontiguousarray(parents)
    if parents.dtype != np.int32 or parents.ndim != 1:
        raise BadInput(f"parents are {parents.dtype} {list(parents.shape)}, not int32 of one dimension")
    return parents
