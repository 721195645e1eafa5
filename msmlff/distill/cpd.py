"""Central-peripheral distillation: draw from where the pool is densest and from where it is sparsest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msmlff.distill.density import Density, Projection, kde_density, knn_density, project
from msmlff.distill.features import POOLINGS, Features
from msmlff.distill.selector import Picks, Selector, Task
from msmlff.errors import InputError

CENTRAL, MIDDLE, PERIPHERAL = "central", "middle", "peripheral"


@dataclass(frozen=True, eq=False)
class Landscape:
    """A pool as CPD sees it.

    Attributes:
        projection: principal components of the pooled features.
        density: log density of each frame among the others.
        band: [frames] str, "central", "middle" or "peripheral".
    """

    projection: Projection
    density: Density
    band: np.ndarray


@dataclass(frozen=True)
class CPD(Selector):
    """CPD (arXiv 2604.03027). Features -> PCA -> local density -> draws from the densest and the sparsest
    frames.

    The paper leaves open what is a parameter here. Slots alternate between the two bands in proportion to
    their shares; a slot whose band is used up draws from the middle. Every frame has one seeded key, and
    each band is drawn in the order of its keys, so a smaller budget is a prefix of a larger one, and with
    a ``reference`` the selection goes on where the reference stopped.

    Attributes:
        pooling: how atoms become a frame: "mean_std", "mean" or "per_element".
        standardise: scale each pooled column to unit variance before the PCA.
        variance: share of the variance that the principal components keep, (0, 1].
        density: "kde" (Gaussian kernels) or "knn" (distance to the k-th nearest frame).
        bandwidth: of the kernels, in units of the components; None: the largest leave-one-out likelihood.
        neighbors: k of "knn".
        central: share of the pool that is the densest band.
        peripheral: share of the pool that is the sparsest band.
        central_share: share of the budget drawn from the central band; the rest is drawn from the
            peripheral one.
        weights: inside a band: "uniform", or "rank": the more extreme the density, the likelier (linear
            in rank).

    Raises:
        InputError: a parameter out of its range.
    """

    pooling: str = "mean_std"
    standardise: bool = True
    variance: float = 0.95
    density: str = "kde"
    bandwidth: float | None = None
    neighbors: int = 10
    central: float = 0.2
    peripheral: float = 0.2
    central_share: float = 0.5
    weights: str = "uniform"

    def __post_init__(self) -> None:
        for name in ("central", "peripheral", "central_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"selector.{name}={getattr(self, name)}: write a share from 0 to 1")
        if self.central + self.peripheral > 1 + 1e-9:
            raise InputError(
                f"selector.central={self.central} and selector.peripheral={self.peripheral} overlap: "
                "their sum must "
                "not exceed 1"
            )
        choices = {"pooling": tuple(POOLINGS), "density": ("kde", "knn"), "weights": ("uniform", "rank")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"selector.{name}={getattr(self, name)} is unknown: write one of {', '.join(known)}"
                )

    def landscape(self, features: Features) -> Landscape:
        """Components, density and bands of the pool; no random numbers. Computed once for the same features.

        Raises:
            InputError: fewer than two different frames.
        """
        return features.remember(self, lambda: self._landscape(features))

    def _landscape(self, features: Features) -> Landscape:
        if len(features) < 2:
            raise InputError("CPD needs a pool of at least two frames: take selector=full")
        projection = project(features.pooled(self.pooling), self.variance, self.standardise)
        points = projection.coordinates
        if self.density == "kde":
            density = kde_density(points, self.bandwidth)
        else:
            density = knn_density(points, self.neighbors)
        return Landscape(projection, density, self._bands(density.log))

    def pick(self, task: Task) -> Picks:
        """Draws from both bands in turn."""
        scape = self.landscape(task.features)
        queues = self._queues(scape, task)
        ids = _alternate(queues, self._slots_held(scape.band, task.held), self.central_share, task.count)
        log, band = scape.density.log, scape.band
        details = {
            "components": scape.projection.coordinates.shape[1],
            "explained_variance": float(scape.projection.explained.sum()),
            "bandwidth": scape.density.bandwidth,
            "central_above": float(log[band == CENTRAL].min()) if (band == CENTRAL).any() else None,
            "peripheral_below": float(log[band == PERIPHERAL].max()) if (band == PERIPHERAL).any() else None,
            "band_sizes": {name: int((band == name).sum()) for name in (CENTRAL, MIDDLE, PERIPHERAL)},
        }
        return Picks(ids, pool_scores=log, pool_columns={"band": band}, details=details)

    def _bands(self, log_density: np.ndarray) -> np.ndarray:
        n = len(log_density)
        order = np.lexsort((np.arange(n), -log_density))
        # The sum of both roundings can exceed n by one (0.5 + 0.5 of an odd number): the centre goes first.
        n_central = int(self.central * n + 0.5)
        n_peripheral = min(int(self.peripheral * n + 0.5), n - n_central)
        band = np.full(n, MIDDLE, dtype=f"<U{len(PERIPHERAL)}")
        band[order[:n_central]] = CENTRAL
        band[order[n - n_peripheral :]] = PERIPHERAL
        return band

    def _queues(self, scape: Landscape, task: Task) -> dict[str, np.ndarray]:
        """The candidates of each band in the order in which they are drawn.

        Sorting by log(weight) + Gumbel noise draws without replacement in proportion to the weights
        (Efraimidis and Spirakis, Inf. Process. Lett. 97, 181 (2006)), with one key a frame whatever else
        is drawn.
        """
        log, band = scape.density.log, scape.band
        keys = np.random.default_rng(task.seed).gumbel(size=len(log))
        if self.weights == "rank":
            for name, outward in ((CENTRAL, -log), (PERIPHERAL, log)):
                members = np.flatnonzero(band == name)
                most_extreme_first = members[np.argsort(outward[members], kind="stable")]
                keys[most_extreme_first] += np.log(np.arange(len(members), 0, -1))
        queues = {}
        for name in (CENTRAL, MIDDLE, PERIPHERAL):
            members = task.candidates[band[task.candidates] == name]
            queues[name] = members[np.argsort(-keys[members], kind="stable")]
        return queues

    @staticmethod
    def _slots_held(band: np.ndarray, held: np.ndarray) -> dict[str, int]:
        """How many slots of each band the held frames fill: its own frames; frames of the middle stand
        for a band that is used up, as they do when it is drawn from."""
        taken = {name: int((band[held] == name).sum()) for name in (CENTRAL, PERIPHERAL)}
        used_up = [name for name in taken if taken[name] == (band == name).sum()]
        if len(used_up) == 1:
            taken[used_up[0]] += int((band[held] == MIDDLE).sum())
        return taken


def _alternate(
    queues: dict[str, np.ndarray], taken: dict[str, int], central_share: float, count: int
) -> np.ndarray:
    """[count] ids: each slot goes to the band that lags most behind its share; used-up bands fall back on
    the middle, then on whatever is left."""
    share = {CENTRAL: central_share, PERIPHERAL: 1 - central_share}
    fallback = {CENTRAL: (CENTRAL, MIDDLE, PERIPHERAL), PERIPHERAL: (PERIPHERAL, MIDDLE, CENTRAL)}
    taken, position = dict(taken), dict.fromkeys(queues, 0)
    ids = np.empty(count, dtype=np.int64)
    for i in range(count):
        total = taken[CENTRAL] + taken[PERIPHERAL] + 1
        slot = max((CENTRAL, PERIPHERAL), key=lambda name: share[name] * total - taken[name])
        source = next(name for name in fallback[slot] if position[name] < len(queues[name]))
        ids[i] = queues[source][position[source]]
        position[source] += 1
        taken[slot] += 1
    return ids
