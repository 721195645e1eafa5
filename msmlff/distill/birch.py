"""BIRCH's tree of subclusters, and Ward's merging of few of them.

Both give what scikit-learn and SciPy give (the tests compare them). They are written here because importing
scikit-learn's or SciPy's clustering takes longer than clustering a pool of thousands of frames.
"""

from __future__ import annotations

import numpy as np

FEW = 2048  # points whose table of distances Ward's merging works on here: 32 MiB


def subclusters(points: np.ndarray, radius: float, branching: int) -> tuple[np.ndarray, np.ndarray]:
    """The subclusters at the leaves of a CF tree (Zhang, Ramakrishnan and Livny, SIGMOD 1996, section 4).

    Points go in one after the other, each into the subcluster with the nearest centre if that keeps its
    root-mean-square distance to the centre within ``radius``, else into a new one.

    Args:
        points: [n, d] float64.
        radius: of a subcluster, at most.
        branching: entries of a node, at most.

    Returns:
        [n] the subcluster with the nearest centre to each point, [m, d] their centres, leaf by leaf.
    """
    tree = _Tree(points.shape[1], radius, branching)
    for point in points:
        tree.add(point)
    centres = np.concatenate([leaf.centres[: leaf.size] for leaf in tree.leaves])
    norms = np.einsum("ij,ij->i", centres, centres)
    step = max(1, (1 << 22) // len(centres))
    parts = [points[start : start + step] for start in range(0, len(points), step)]
    nearest = [np.argmin(norms - 2 * (part @ centres.T), axis=1) for part in parts]
    return np.concatenate(nearest), centres


class _Node:
    """Up to ``branching`` entries (one more until it is split), each a clustering feature: number, sum and
    sum of squares of its points, from which its centre follows. Entries of inner nodes have a child each."""

    def __init__(self, room: int, width: int) -> None:
        self.size = 0
        self.counts, self.squares, self.norms = np.zeros(room), np.zeros(room), np.zeros(room)
        self.sums, self.centres = np.zeros((room, width)), np.zeros((room, width))
        self.children: list[_Node] = []

    def nearest(self, point: np.ndarray) -> int:
        """The entry with the nearest centre."""
        return int((self.norms[: self.size] - 2 * (self.centres[: self.size] @ point)).argmin())

    def put(self, i: int, count: float, total: np.ndarray, square: float) -> None:
        """Make entry ``i`` that of these points; ``i`` may be the next new one."""
        self.size = max(self.size, i + 1)
        self.counts[i], self.sums[i], self.squares[i] = count, total, square
        self.centres[i] = (1 / count) * total
        self.norms[i] = self.centres[i] @ self.centres[i]

    def put_node(self, i: int, child: _Node) -> None:
        """Make entry ``i`` that of all points below ``child``."""
        part = slice(child.size)
        self.put(i, child.counts[part].sum(), child.sums[part].sum(axis=0), child.squares[part].sum())
        self.children[i : i + 1] = [child]


class _Tree:
    """A CF tree; ``leaves`` in their order: the halves of a split leaf are where it was."""

    def __init__(self, width: int, radius: float, branching: int) -> None:
        self._width, self._limit, self._branching = width, radius**2, branching
        self._root = self._node()
        self.leaves = [self._root]

    def add(self, point: np.ndarray) -> None:
        """Insert a point."""
        if self._insert(self._root, point, point @ point):
            halves, self._root = self._split(self._root), self._node()
            for i, half in enumerate(halves):
                self._root.put_node(i, half)

    def _node(self) -> _Node:
        return _Node(self._branching + 1, self._width)

    def _insert(self, node: _Node, point: np.ndarray, square: float) -> bool:
        """Whether the node has an entry too many now."""
        if not node.size:
            node.put(0, 1, point, square)
            return False
        i = node.nearest(point)
        count, total = node.counts[i] + 1, node.sums[i] + point
        squares = node.squares[i] + square
        if node.children:
            if self._insert(node.children[i], point, square):
                one, other = self._split(node.children[i])
                node.put_node(i, one)
                node.put_node(node.size, other)
            else:
                node.put(i, count, total, squares)
        else:
            centre = (1 / count) * total
            if squares / count - centre @ centre <= self._limit:
                node.put(i, count, total, squares)
            else:
                node.put(node.size, 1, point, square)
        return node.size > self._branching

    def _split(self, node: _Node) -> tuple[_Node, _Node]:
        """Two nodes: each entry goes to the nearer of the two that are farthest from each other."""
        centres = node.centres[: node.size]
        norms = np.einsum("ij,ij->i", centres, centres)
        # Added up in scikit-learn's order, as rounding decides which of the two comes first.
        squares = np.maximum(-2 * (centres @ centres.T) + norms[:, None] + norms, 0.0)
        np.fill_diagonal(squares, 0.0)
        a, b = np.unravel_index(int(squares.argmax()), squares.shape)
        to_first = squares[a] < squares[b]
        to_first[a], to_first[b] = True, False
        halves = self._node(), self._node()
        for i, first in enumerate(to_first.tolist()):
            half = halves[0 if first else 1]
            if node.children:
                half.children.append(node.children[i])
            half.put(half.size, node.counts[i], node.sums[i], node.squares[i])
        if not node.children:
            at = self.leaves.index(node)
            self.leaves[at : at + 1] = halves
        return halves


def ward(points: np.ndarray) -> np.ndarray:
    """Ward's hierarchical clustering (J. Am. Stat. Assoc. 58, 236 (1963)).

    Args:
        points: [m, d].

    Returns:
        [m - 1, 2] the two nodes of each merge, by growing distance; points are nodes 0 to m - 1, merge i
        makes node m + i.
    """
    if len(points) > FEW:
        from scipy.cluster import hierarchy

        nodes: np.ndarray = hierarchy.ward(points)[:, :2].astype(np.int64)
        return nodes
    merges = sorted(_neighbour_chain(points), key=lambda merge: merge[0])
    node = list(range(len(points)))  # of the cluster that has this number in the table
    children = np.empty((len(merges), 2), dtype=np.int64)
    for i, (_, gone, kept) in enumerate(merges):
        children[i] = sorted((node[gone], node[kept]))
        node[kept] = len(points) + i
    return children


def _neighbour_chain(points: np.ndarray) -> list[tuple[float, int, int]]:
    """Merges (squared distance, number that is gone, number that stays) in the order of a chain of nearest
    neighbours (Murtagh, Comput. J. 26, 354 (1983)), distances by Lance and Williams' rule."""
    squares = np.zeros((len(points), len(points)))
    for column in points.T:  # by differences: copies are at distance 0
        squares += (column[:, None] - column) ** 2
    np.fill_diagonal(squares, np.inf)
    merges: list[tuple[float, int, int]] = []
    sizes, chain = np.ones(len(points)), [0]
    alive = np.ones(len(points), dtype=bool)
    while len(merges) < len(points) - 1:
        chain = chain or [int(np.argmax(alive))]
        last = chain[-1]
        nearest = int(squares[last].argmin())
        if len(chain) == 1 or squares[last, nearest] < squares[last, chain[-2]]:
            chain.append(nearest)
            continue
        gone, kept = sorted(chain[-2:])
        least, chain = squares[gone, kept], chain[:-2]
        merges.append((float(least), gone, kept))
        both = sizes[gone] + sizes[kept]
        # Infinite to itself and to what is gone, as those are in the table.
        row = (sizes[gone] + sizes) * squares[gone] + (sizes[kept] + sizes) * squares[kept] - sizes * least
        squares[kept] = squares[:, kept] = row / (both + sizes)
        squares[gone] = squares[:, gone] = np.inf
        sizes[kept], alive[gone] = both, False
    return merges
