"""Places nodes of a hypergraph on sides: whole components where they fit, cut regions where not.

A *node* is a set of items that must stay together; an *edge* is a row, which joins the nodes of its
references and targets. An edge is inside a side when all its nodes are; it is lost when they are
not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Array = np.ndarray[Any, Any]

#: A side that lacks no more than this share of its quota is left as it is: nothing is cut for it.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Graph:
    """edge, node: int64 (m,), the distinct (edge, node) incidences; ranks: int64 (nodes,), a
    random order of the nodes that depends on the seed and their ids alone.
    """

    edges: int
    nodes: int
    edge: Array
    node: Array
    ranks: Array

    def components(self) -> Array:
        """Label of the connected component of each node, int64."""
        order = np.argsort(self.edge, kind="stable")
        edge, node = self.edge[order], self.node[order]
        same = edge[1:] == edge[:-1]
        return connected(self.nodes, node[:-1][same], node[1:][same])

    def rows(self, by: Array, values: Array, count: int) -> tuple[list[int], list[int]]:
        """CSR of ``values`` grouped by ``by``: (offsets, values) as plain lists."""
        order = np.lexsort((values, by))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(by, minlength=count))])
        return offsets.tolist(), values[order].tolist()


def connected(count: int, left: Array, right: Array) -> Array:
    """Labels of the components of ``count`` nodes joined by ``left[i]`` - ``right[i]``, int64."""
    links = coo_matrix((np.ones(len(left), dtype=bool), (left, right)), shape=(count, count))
    labels: Array = connected_components(links.tocsr(), directed=False)[1].astype(np.int64)
    return labels


def place(graph: Graph, shares: Sequence[float], max_lost: float) -> Array:
    """The side (number of the share) of every node, int64.

    Components are placed whole in their random order, each on the side that lacks the largest
    part of its quota among those where it fits. What fits on no side goes to the largest side.
    Sides that are then short grow regions out of it (:func:`grow`), giving up at most
    ``max_lost`` of all edges.
    """
    base = max(range(len(shares)), key=lambda side: (shares[side], -side))
    if not graph.edges or not graph.nodes:
        return np.full(graph.nodes, base, dtype=np.int64)
    labels = graph.components()
    count = int(labels.max()) + 1
    first = np.zeros(graph.edges, dtype=np.int64)
    first[graph.edge] = labels[graph.node]
    sizes = np.bincount(first, minlength=count)
    chosen, left = _whole(sizes, _component_ranks(graph, labels, count), shares, base)
    sides: Array = chosen[labels]
    wanted = [side for side in range(len(shares)) if side != base and shares[side] > 0]
    short = [side for side in wanted if left[side] > _slack(shares[side] * graph.edges)]
    if short:
        growth = _Growth(graph, sides, base, sizes[labels])
        budget, lost = int(max_lost * graph.edges), 0
        short.sort(key=lambda side: (-shares[side], side))
        for number, side in enumerate(short):
            # Shares are shares of what remains: of what this cut loses, and of what the cuts for
            # the sides after it will lose, which is about as much for each row that they hold.
            ahead = sum(shares[other] for other in short[number:])
            lost += growth.grow(side, ahead, left[side] - shares[side] * lost, budget - lost)
        sides = growth.sides
    return sides


def _slack(quota: float) -> float:
    return max(1.0, TOLERANCE * quota) - 1e-9


def _component_ranks(graph: Graph, labels: Array, count: int) -> Array:
    ranks = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(ranks, labels, graph.ranks)
    return ranks


def _whole(sizes: Array, ranks: Array, shares: Sequence[float], base: int) -> tuple[Array, Any]:
    """The side of each component, and how many edges each side still lacks."""
    quotas = [share * int(sizes.sum()) for share in shares]
    left = list(quotas)
    chosen = np.full(len(sizes), base, dtype=np.int64)
    small = max([quota for side, quota in enumerate(quotas) if side != base], default=0.0)
    large = sizes > small + 0.5
    left[base] -= int(sizes[large].sum())
    others = np.nonzero(~large)[0]
    order = others[np.argsort(ranks[others], kind="stable")]
    usable = [side for side, share in enumerate(shares) if share > 0]
    for component, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        best, side = 0.0, base
        for candidate in usable:
            room = left[candidate]
            if size <= room + 0.5 and room / quotas[candidate] > best:
                best, side = room / quotas[candidate], candidate
        chosen[component] = side
        left[side] -= size
    # The largest side may have taken what another one now lacks.
    back = order[(chosen[order] == base) & (sizes[order] > 0)]
    for component, size in zip(back.tolist(), sizes[back].tolist(), strict=True):
        for side in usable:
            if side != base and left[base] < 0 and size <= left[side] + 0.5:
                chosen[component] = side
                left[side], left[base] = left[side] - size, left[base] + size
                break
    return chosen, left


class _Growth:
    """Grows sides out of the largest one, node by node."""

    def __init__(self, graph: Graph, sides: Array, base: int, sizes: Array) -> None:
        self.graph, self.sides, self.base = graph, sides, base
        self.edges_of, self.edge_list = graph.rows(graph.node, graph.edge, graph.nodes)
        self.nodes_of, self.node_list = graph.rows(graph.edge, graph.node, graph.edges)
        self.lost = np.zeros(graph.edges, dtype=bool)
        self.sizes = sizes
        self.ranks: list[int] = graph.ranks.tolist()

    def grow(self, side: int, ahead: float, lacking: float, budget: int) -> int:
        """Move nodes to ``side`` until it holds ``lacking`` more edges; returns the edges lost.

        Greedy: next is the node most of whose edges would be inside. ``lacking`` shrinks by
        ``ahead`` with every edge lost, of which there are at most ``budget``. Hubs (nodes with
        more edges than the side should hold) are left out at first, as they would cost more than
        they give.
        """
        region = _Region(self, ahead, lacking, budget)
        degrees = region.degrees
        limit = max(1.0, lacking)
        while True:
            region.fill(limit)
            if region.full() or limit > degrees.max(initial=0):
                break
            limit *= 4
        members = region.kept()
        self.sides[members] = side
        touched = np.zeros(self.graph.edges, dtype=bool)
        outside = np.zeros(self.graph.edges, dtype=bool)
        here = np.zeros(self.graph.nodes, dtype=bool)
        here[members] = True
        touched[self.graph.edge[here[self.graph.node]]] = True
        outside[self.graph.edge[~here[self.graph.node]]] = True
        fresh = touched & outside & ~self.lost
        self.lost |= fresh
        return int(fresh.sum())


class _Region:
    """A growing set of nodes of the largest side."""

    def __init__(self, growth: _Growth, ahead: float, lacking: float, budget: int) -> None:
        self.growth, self.ahead, self.lacking, self.budget = growth, ahead, lacking, budget
        graph = growth.graph
        at_base = growth.sides == growth.base
        alive = ~growth.lost
        alive[graph.edge[~at_base[graph.node]]] = False
        live = alive[graph.edge]
        missing = np.bincount(graph.edge[live], minlength=graph.edges)
        self.degrees = np.bincount(graph.node[live], minlength=graph.nodes)
        alone = live & (missing[graph.edge] == 1)
        ready = np.bincount(graph.node[alone], minlength=graph.nodes)
        self.alive: list[bool] = alive.tolist()
        self.missing: list[int] = missing.tolist()
        self.degree: list[int] = self.degrees.tolist()
        self.ready: list[int] = ready.tolist()
        self.members: dict[int, None] = {}
        self.inside = self.cut = 0
        candidates = np.nonzero(at_base & (self.degrees > 0))[0]
        order = np.lexsort((graph.ranks[candidates], -growth.sizes[candidates]))
        self.starts: list[int] = candidates[order].tolist()

    def wanted(self) -> float:
        """Edges that the side still lacks."""
        return self.lacking - self.ahead * self.cut - self.inside

    def full(self) -> bool:
        """Whether the side holds what it should, or no more may be lost."""
        return self.wanted() < 0.5 or self.cut >= self.budget

    def fill(self, limit: float) -> None:
        """Add nodes of at most ``limit`` edges until the side is full or none fits."""
        heap: list[tuple[float, int, int, int, int]] = []
        for member in self.members:
            self._push_neighbours(heap, member)
        starts = iter(self.starts)
        while not self.full():
            node = self._next(heap, limit)
            if node is None:
                fit = (n for n in starts if self._fits(n, limit) and self._promising(n, limit))
                node = next(fit, None)
                if node is None:
                    return
            self._add(node)
            self._push_neighbours(heap, node)

    def _fits(self, node: int, limit: float) -> bool:
        degree, ready = self.degree[node], self.ready[node]
        room = max(1.0, 0.02 * self.lacking) + self.wanted()
        return (
            node not in self.members
            and degree <= limit
            and ready <= room
            and self.cut + self._cost(node) <= self.budget
        )

    def _cost(self, node: int) -> int:
        """How many more edges are cut once ``node`` is in."""
        return sum(
            (1 if self.missing[edge] == count else 0) - (1 if self.missing[edge] == 1 else 0)
            for edge, count in self._edges(node)
        )

    def _promising(self, node: int, limit: float) -> bool:
        """Whether some edge of ``node`` could come to lie inside."""
        return any(
            all(self.degree[other] <= limit for other in self._nodes(edge))
            for edge, _ in self._edges(node)
        )

    def _edges(self, node: int) -> Iterator[tuple[int, int]]:
        """The edges of ``node`` that are not lost, with their numbers of nodes."""
        growth = self.growth
        for edge in growth.edge_list[growth.edges_of[node] : growth.edges_of[node + 1]]:
            if self.alive[edge]:
                yield edge, growth.nodes_of[edge + 1] - growth.nodes_of[edge]

    def _nodes(self, edge: int) -> list[int]:
        growth = self.growth
        return growth.node_list[growth.nodes_of[edge] : growth.nodes_of[edge + 1]]

    def _next(self, heap: list[tuple[float, int, int, int, int]], limit: float) -> int | None:
        while heap:
            _, _, _, node, ready = heapq.heappop(heap)
            if ready == self.ready[node] and self._fits(node, limit):
                return node
        return None

    def _add(self, node: int) -> None:
        self.members[node] = None
        for edge, count in self._edges(node):
            self.cut += self.missing[edge] == count
            self.missing[edge] -= 1
            if self.missing[edge] == 0:
                self.cut -= 1
                self.inside += 1
            elif self.missing[edge] == 1:
                last = next(other for other in self._nodes(edge) if other not in self.members)
                self.ready[last] += 1

    def _push_neighbours(self, heap: list[tuple[float, int, int, int, int]], node: int) -> None:
        ranks = self.growth.ranks
        for edge, _ in self._edges(node):
            for other in self._nodes(edge):
                if other not in self.members:
                    ready, degree = self.ready[other], self.degree[other]
                    heapq.heappush(heap, (-ready / degree, degree, ranks[other], other, ready))

    def kept(self) -> Array:
        """The nodes of the region that have an edge inside; the others would only cost."""
        useful = [
            node
            for node in self.members
            if any(self.missing[edge] == 0 for edge, _ in self._edges(node))
        ]
        return np.array(sorted(useful), dtype=np.int64)
