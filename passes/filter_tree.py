"""Trees over the filters of a binary layer: each filter's outputs follow from its parent's by the bits that differ.

A filter is K bits (1 for +1). P_j, the number of inputs that agree with filter j, follows from another filter's, i:
P_j = P_i - d_ij + 2 P_ij, with d_ij the number of differing bits and P_ij the agreeing inputs among those (Vo et al.,
MST-compression, ICCV 2023, eq. 3). So a layer costs the differing bits along a tree over its filters rather than all
bits. `paper_tree` is the paper's: the minimum spanning tree of the complete graph, rooted where it is shallowest.
`engine_tree` is for bit-plane kernels, where it may be better: a filter of zeros, which costs nothing, as everybody's
ancestor; complements of filters; virtual filters; a limit on depth; and a price for each edge.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from bnncc.errors import BadInput
from bnncc.runtime.trees import hamming_distances, schedule, steiner_tree, virtual_filters

NO_PARENT = -1

# How many bits of a byte are set; numpy.bitwise_count came with NumPy 2.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)

Packed = NDArray[np.uint8]
Indices = NDArray[np.int32]


@dataclass(frozen=True)
class TreeOptions:
    """What a tree may use beyond the paper's.

    shared_root: the filter of zeros, whose outputs cost nothing, is an ancestor of all; else one filter is computed
    from all K bits. complement: a filter may be computed as its complement. steiner: virtual filters, which give no
    output but are computed where that costs less in total. ripple: the price of an edge with differing bits, in bits
    (for adding their count to the parent's counters). max_depth: edges between the root and any filter at
    most, None for any. sweeps: how often the search for virtual filters tries every branch everywhere, at most.
    """

    shared_root: bool = True
    complement: bool = True
    steiner: bool = True
    ripple: int = 0
    max_depth: int | None = None
    sweeps: int = 20


MOST_FILTERS = 1 << 12  # distances between all pairs are kept
MOST_STEINER_WORK = 1 << 34  # filters squared times bits: the search takes some ten seconds then


def feasible_options(filters: int, length: int, options: TreeOptions) -> TreeOptions | None:
    """Return what can be asked of a tree over so many filters of `length` bits; None where none can be had.

    Virtual filters are left out where to search them would take longer than some ten seconds.
    """
    if filters > MOST_FILTERS:
        return None
    return replace(options, steiner=options.steiner and filters * filters * length <= MOST_STEINER_WORK)


@dataclass(frozen=True)
class FilterTree:
    """A tree over M filters of `length` bits and the virtual filters between them: N nodes, the M filters first.

    parents: int32 [N], NO_PARENT for what is computed from nothing: with shared_root children of the filter of zeros,
    else the one root. flipped: bool [N], whether the node is the complement of the filter (never for virtual ones).
    bits: uint8 [N, ceil(length / 8)], the nodes as they are counted, complemented where flipped says so: an edge's
    differing bits are those of the two rows. order: int32 [N], every node after its parent, depth first. slots:
    int32 [N], which of the slot_count sets of counters a node is counted in; it may be its parent's, when that is not
    needed any more.
    """

    filter_count: int
    length: int
    shared_root: bool
    parents: Indices
    flipped: NDArray[np.bool_]
    bits: Packed
    order: Indices
    slots: Indices

    @property
    def edge_bits(self) -> NDArray[np.int32]:
        """Return int32 [N]: the bits in which each node differs from its parent; all K for a root that has none."""
        padded = np.concatenate([self.bits, np.zeros_like(self.bits[:1])])  # parent -1 is the filter of zeros
        ones = _ONES[padded[self.parents] ^ self.bits].sum(axis=1, dtype=np.int32)
        return ones if self.shared_root else np.where(self.parents == NO_PARENT, self.length, ones).astype(np.int32)

    @property
    def planes(self) -> int:
        """Return how many bits are added in all, the root's included."""
        return int(self.edge_bits.sum())

    @property
    def additions(self) -> int:
        """Return the number of nodes that differ from their parent: each adds a count to its counters."""
        return int(np.count_nonzero(self.edge_bits))

    @property
    def depths(self) -> Indices:
        """Return int32 [N]: edges from the root; the filter of zeros is the root where it is shared."""
        depths = np.zeros(len(self.parents) + 1, np.int32)
        depths[NO_PARENT] = 0 if self.shared_root else -1
        for node in self.order:
            depths[node] = depths[self.parents[node]] + 1
        return depths[:-1]

    @property
    def depth(self) -> int:
        """Return the number of edges on the longest way from the root."""
        return int(self.depths.max())

    @property
    def slot_count(self) -> int:
        """Return how many sets of counters are alive at once."""
        return int(self.slots.max()) + 1

    @property
    def virtual_count(self) -> int:
        """Return the number of virtual filters."""
        return len(self.parents) - self.filter_count


# ---- The paper's tree ---------------------------------------------------------------------


def size_with_positions(tree: FilterTree) -> float:
    """Return in bits what the paper's tree takes when it must say where the differing bits are.

    K for the root, and for every other filter log2(M) for its parent, log2(K + 1) for d, log2 binomial(K, d) for the
    positions. The bits themselves are then known: they are not the parent's.
    """
    differing = tree.edge_bits[tree.parents != NO_PARENT]
    length, count = tree.length, tree.filter_count
    positions = sum(_log2_binomial(length, int(d)) for d in differing)
    return length + positions + len(differing) * (math.log2(count) + math.log2(length + 1))


def _log2_binomial(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def paper_tree(filters: Packed, length: int) -> FilterTree:
    """Return the paper's tree of packed filters uint8 [M, ceil(length / 8)]: a minimum spanning tree of least depth.

    Equal edges are taken in the order of their filters' numbers; of two centres the lower number is the root.
    Raises BadInput for no filters or another shape.
    """
    return engine_tree(filters, length, TreeOptions(shared_root=False, complement=False, steiner=False))


# ---- The engine's tree -------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """A tree in the making: packed bits as counted, uint8 [N, ...], and parents and flipped as in FilterTree.

    The nodes from `fixed` on are virtual. One node has no parent: node 0, the filter of zeros, if the root is shared.
    """

    bits: Packed
    flipped: NDArray[np.bool_]
    parents: Indices
    fixed: int
    length: int

    def distances(self) -> NDArray[np.int32]:
        return hamming_distances(self.bits, self.bits, self.length)

    def cost(self, ripple: int) -> int:
        ones = _ONES[self.bits ^ self.bits[self.parents]].sum(axis=1, dtype=np.int64)
        ones[self.parents == NO_PARENT] = 0
        return int(ones.sum()) + ripple * int(np.count_nonzero(ones))


def engine_tree(filters: Packed, length: int, options: TreeOptions | None = None) -> FilterTree:
    """Return a tree of packed filters uint8 [M, ceil(length / 8)] with what `options` allow.

    The result depends on the arguments alone. Raises BadInput for no filters, another shape or a negative option.
    """
    options = options or TreeOptions()
    filters = _checked(filters, length, options)
    nodes = np.concatenate([np.zeros_like(filters[:1]), filters]) if options.shared_root else filters
    draft = _Draft(nodes, np.zeros(len(nodes), bool), np.full(len(nodes), NO_PARENT, np.int32), len(nodes), length)
    draft = _spanning_tree(draft, options)
    if options.steiner and len(nodes) > 2:
        draft = _with_virtual_filters(draft, options)
    if not options.shared_root:
        draft.parents = _rooted(draft.parents, _centre(draft.parents))
        draft.bits = _label(draft)
    if options.max_depth is not None:
        draft = _limit_depth(draft, options)
    return _finish(draft, options)


def complement_of(filters: Packed, length: int) -> Packed:
    """Return packed filters [M, ceil(length / 8)] with every bit changed; unused bits are 0."""
    return ~filters & np.packbits(np.ones(length, np.uint8), bitorder="little")


def _checked(filters: Packed, length: int, options: TreeOptions) -> Packed:
    filters = np.ascontiguousarray(filters, np.uint8)
    if length < 1 or filters.ndim != 2 or filters.shape[1] != -(-length // 8):
        raise BadInput(f"filters of shape {list(filters.shape)} are not [M, {-(-length // 8)}], packed {length} bits")
    if len(filters) < 1:
        raise BadInput("a tree needs at least one filter")
    if options.ripple < 0 or options.sweeps < 0:
        raise BadInput("ripple and sweeps cannot be negative")
    if options.max_depth is not None and options.max_depth < 1:
        raise BadInput("max_depth must be at least 1")
    return filters & np.packbits(np.ones(length, np.uint8), bitorder="little")


def _minimum_spanning_parents(costs: NDArray[np.integer], root: int) -> Indices:
    """Parents [n] of the minimum spanning tree of a complete graph with symmetric costs [n, n], equal ones in order.

    Each edge's number is added to its cost scaled up: costs are different then, so that there is only one minimum
    spanning tree, and none is 0, which scipy takes for no edge.
    """
    count = len(costs)
    upper = np.triu_indices(count, 1)
    weights = np.zeros((count, count))
    weights[upper] = costs[upper] * float(len(upper[0]) + 1) + np.arange(1, len(upper[0]) + 1)
    tree = minimum_spanning_tree(weights, overwrite=True).tocoo()
    return _parents_from_edges(count, zip(tree.row.tolist(), tree.col.tolist(), strict=True), root)


def _parents_from_edges(count: int, edges: Iterable[tuple[int, int]], root: int) -> Indices:
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    parents = np.full(count, NO_PARENT, np.int32)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for other in neighbours[node]:
            if other != parents[node]:
                parents[other] = node
                waiting.append(other)
    return parents


def _costs(distances: NDArray[np.int32], length: int, options: TreeOptions) -> NDArray[np.int32]:
    costs = np.minimum(distances, length - distances) if options.complement else distances
    return costs + options.ripple * (costs > 0)


def _spanning_tree(draft: _Draft, options: TreeOptions) -> _Draft:
    """The minimum spanning tree of a draft's nodes, from node 0, with complements where they are nearer."""
    parents = _minimum_spanning_parents(_costs(draft.distances(), draft.length, options), 0)
    return _oriented(replace(draft, parents=parents), options)


def _oriented(draft: _Draft, options: TreeOptions) -> _Draft:
    """The draft with each node, from the root down, complemented where that is nearer to its parent."""
    if not options.complement:
        return draft
    bits, flipped = draft.bits.copy(), draft.flipped.copy()
    other = complement_of(bits, draft.length)
    for node in _top_down(draft.parents)[1:]:
        if 2 * int(_ONES[bits[draft.parents[node]] ^ bits[node]].sum(dtype=np.int64)) > draft.length:
            bits[node], flipped[node] = other[node], not flipped[node]
    return replace(draft, bits=bits, flipped=flipped)


def _top_down(parents: Indices) -> list[int]:
    """The nodes reached from those without a parent, every node after its parent."""
    children = _children(parents)
    order = np.flatnonzero(parents == NO_PARENT).tolist()
    for node in order:
        order.extend(children[node])
    return order


def _children(parents: Indices) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents.tolist()):
        if parent != NO_PARENT:
            children[parent].append(node)
    return children


# ---- Virtual filters ---------------------------------------------------------------------------------------


def _with_virtual_filters(spanning: _Draft, options: TreeOptions) -> _Draft:
    """A tree with virtual filters; the spanning tree itself where that costs no more.

    The search minimises differing bits and makes every inner node virtual; then nodes that do not pay for their edges
    are merged with a neighbour. The search is given the filters as the spanning tree has complemented them, the nearest
    first: from filters as they come it ends up to 5% higher.
    """
    _, order = _prim(_costs(spanning.distances(), spanning.length, options), 0, None)
    parents, flipped, _ = steiner_tree(
        spanning.bits[order], spanning.length, complement=options.complement, sweeps=options.sweeps
    )
    count = len(order)
    place = np.arange(len(parents), dtype=np.int32)  # of the search's nodes among the draft's
    place[:count] = order
    draft = _Draft(
        bits=np.zeros((len(parents), spanning.bits.shape[1]), np.uint8),
        flipped=np.zeros(len(parents), bool),
        parents=np.full(len(parents), NO_PARENT, np.int32),
        fixed=count,
        length=spanning.length,
    )
    draft.parents[place[1:]] = place[parents[1:]]
    turned = np.zeros(count, bool)
    turned[order] = flipped
    draft.flipped[:count] = spanning.flipped ^ turned
    draft.bits[:count] = np.where(turned[:, None], complement_of(spanning.bits, spanning.length), spanning.bits)
    draft.bits = _label(draft)
    draft = _merged(draft, options)
    return draft if draft.cost(options.ripple) < spanning.cost(options.ripple) else spanning


def _merged(draft: _Draft, options: TreeOptions) -> _Draft:
    """The draft without the virtual nodes whose neighbours one of them joins for no more; the others chosen anew."""
    while True:
        parents = _merge(draft, options.ripple)
        nodes = np.arange(len(parents))
        kept = np.flatnonzero((nodes < draft.fixed) | (parents != NO_PARENT) | (draft.parents == NO_PARENT))
        number = np.full(len(parents) + 1, NO_PARENT, np.int32)
        number[kept] = np.arange(len(kept))
        smaller = replace(
            draft, bits=draft.bits[kept], flipped=draft.flipped[kept], parents=number[parents[kept]], fixed=draft.fixed
        )
        smaller.bits = _label(smaller)
        if len(kept) == len(draft.parents):
            return smaller
        draft = smaller


def _merge(draft: _Draft, ripple: int) -> Indices:
    """Parents after merging virtual nodes with a neighbour where that costs nothing; a node merged away has none."""
    distances = draft.distances()
    costs = distances + ripple * (distances > 0)
    parents = draft.parents.tolist()
    children = [set(nodes) for nodes in _children(draft.parents)]

    def gain_and_heir(node: int) -> tuple[int, int]:
        neighbours = [parents[node], *sorted(children[node])]
        between = costs[np.ix_(neighbours, neighbours)].sum(axis=1, dtype=np.int64).tolist()
        there, heir = min(zip(between, neighbours, strict=True))
        return int(costs[node, neighbours].sum(dtype=np.int64)) - there, heir

    virtual = [node for node in range(draft.fixed, len(parents)) if parents[node] != NO_PARENT]
    waiting = [(-gain_and_heir(node)[0], node) for node in virtual]
    heapq.heapify(waiting)
    while waiting:
        expected, node = heapq.heappop(waiting)
        if parents[node] == NO_PARENT:
            continue
        gain, heir = gain_and_heir(node)
        if gain < 0 or gain != -expected:
            continue  # what it is now is waiting too, or not worth while
        parent, neighbours = parents[node], [parents[node], *sorted(children[node])]
        children[parent].discard(node)
        if heir != parent:
            parents[heir] = parent
            children[parent].add(heir)
        for child in children[node] - {heir}:
            parents[child] = heir
            children[heir].add(child)
        parents[node], children[node] = NO_PARENT, set()
        for other in neighbours:
            if other >= draft.fixed and parents[other] != NO_PARENT:
                heapq.heappush(waiting, (-gain_and_heir(other)[0], other))
    return np.array(parents, np.int32)


def _label(draft: _Draft) -> Packed:
    """The draft's bits, with the virtual filters that make the differing bits along its tree fewest."""
    fixed = draft.bits[: draft.fixed]  # complemented already
    return virtual_filters(fixed, draft.length, draft.parents, np.zeros(draft.fixed, bool), shared_root=False)


# ---- Root, depth, order ------------------------------------------------------------------------------------


def _prim(costs: NDArray[np.integer], root: int, max_depth: int | None) -> tuple[Indices, list[int]]:
    """Parents [n] and order of nodes added one after the other, each the nearest to those in the tree already.

    Only nodes less than max_depth edges below the root get children. The first of equals is taken.
    """
    count = len(costs)
    far = np.iinfo(np.int64).max
    parents = np.full(count, NO_PARENT, np.int32)
    depths = np.zeros(count, np.int32)
    nearest = np.full(count, far)
    waiting = np.ones(count, bool)
    order, node = [root], root
    waiting[root] = False
    while len(order) < count:
        if max_depth is None or depths[node] < max_depth:
            nearer = waiting & (costs[node] < nearest)
            nearest[nearer], parents[nearer] = costs[node][nearer], node
        node = int(np.where(waiting, nearest, far).argmin())
        waiting[node] = False
        depths[node] = depths[parents[node]] + 1
        order.append(node)
    return parents, order


def _limit_depth(draft: _Draft, options: TreeOptions) -> _Draft:
    """The draft, or where it is too deep another tree over its nodes that is not."""
    if _depth(draft.parents) <= options.max_depth:
        return draft
    root = _top_down(draft.parents)[0]
    parents, _ = _prim(_costs(draft.distances(), draft.length, options), root, options.max_depth)
    return _merged(_oriented(replace(draft, parents=parents), options), options)


def _depth(parents: Indices) -> int:
    depths = np.zeros(len(parents), np.int32)
    for node in _top_down(parents)[1:]:
        depths[node] = depths[parents[node]] + 1
    return int(depths.max())


def _centre(parents: Indices) -> int:
    """The node from which the tree is shallowest: what is left when leaves are taken off, layer by layer."""
    neighbours = [set(nodes) for nodes in _children(parents)]
    for node, parent in enumerate(parents.tolist()):
        if parent != NO_PARENT:
            neighbours[node].add(parent)
    left = len(parents)
    leaves = [node for node, others in enumerate(neighbours) if len(others) <= 1]
    while left > 2:
        left -= len(leaves)
        inner = []
        for leaf in leaves:
            (other,) = neighbours[leaf]
            neighbours[other].discard(leaf)
            if len(neighbours[other]) == 1:
                inner.append(other)
        leaves = inner
    return min(leaves)


def _rooted(parents: Indices, root: int) -> Indices:
    """Parents of the same tree with another root."""
    rooted = parents.copy()
    node, parent = root, NO_PARENT
    while node != NO_PARENT:
        rooted[node], parent, node = parent, node, int(parents[node])
    return rooted


def _finish(draft: _Draft, options: TreeOptions) -> FilterTree:
    """The finished tree: no row for the filter of zeros, virtual filters in the order in which they are counted."""
    bits, flipped, parents, fixed = draft.bits, draft.flipped, draft.parents, draft.fixed
    if options.shared_root:
        bits, flipped, parents, fixed = bits[1:], flipped[1:], parents[1:] - 1, fixed - 1
        parents[parents < 0] = NO_PARENT
    order, _ = schedule(parents)
    kept = [*range(fixed), *order[order >= fixed].tolist()]
    number = np.full(len(parents) + 1, NO_PARENT, np.int32)
    number[kept] = np.arange(len(kept))
    parents = number[parents[kept]]
    order, slots = schedule(parents)
    flipped = flipped[kept] & (np.arange(len(kept)) < fixed)
    return FilterTree(fixed, draft.length, options.shared_root, parents, flipped, bits[kept], order, slots)
