"""Every selector, with settings that matter, for the contract suite: add a new one to METHODS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.bank import EnvironmentBank
from msmlff.distill.chain import Chain, Outliers
from msmlff.distill.clusters import Birch, KMeans, KMedoids
from msmlff.distill.committee import AtomicUncertainty, CommitteeDeviation
from msmlff.distill.cpd import CPD
from msmlff.distill.d_optimal import DOptimal
from msmlff.distill.direct import DIRECT
from msmlff.distill.facility import FacilityLocation
from msmlff.distill.features import Features
from msmlff.distill.fps import FPS, EnvironmentFPS, ForceWeightedFPS
from msmlff.distill.gradients import LCMD, MaxDistGradients
from msmlff.distill.histogram import FlatDensity, FlatEnergy
from msmlff.distill.linear import CUR, MaxDet
from msmlff.distill.rnd import RND
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Selector
from msmlff.distill.set_cover import SetCover
from msmlff.distill.simple import FullSelector, RandomSelector, Stratified, Uniform

METHODS: dict[str, Selector] = {
    "random": RandomSelector(),
    "uniform": Uniform(),
    "stratified": Stratified(),
    "stratified-proportional": Stratified(shares="proportional"),
    "cpd": CPD(),
    "cpd-knn": CPD(density="knn", neighbors=5, pooling="mean"),
    "cpd-rank": CPD(weights="rank", central=0.1, peripheral=0.4, central_share=0.7, pooling="per_element"),
    "cpd-overflow": CPD(central=0.05, peripheral=0.3),
    "fps": FPS(),
    "fps-centre": FPS(start="centre", pooling="mean", variance=0.9),
    "fps_environments": EnvironmentFPS(),
    "fps_environments-all": EnvironmentFPS(by_element=False),
    "fps_environments-centre": EnvironmentFPS(start="centre"),
    "fps_forces": ForceWeightedFPS(),
    "bank": EnvironmentBank(),
    "bank-2": EnvironmentBank(radius=1.0, min_new=2),
    "bank-file": EnvironmentBank(order="file"),
    "cur": CUR(),
    "cur-k3": CUR(k=3, standardise=False, pooling="mean"),
    "cur-sampled": CUR(draw="sampled", k=2),
    "max_det": MaxDet(),
    "max_det-gaussian": MaxDet(kernel="gaussian", pooling="mean"),
    "d_optimal": DOptimal(),
    "d_optimal-per_atom": DOptimal(per_atom=True),
    "d_optimal-few": DOptimal(components=2, noise=1.0),
    "kmeans": KMeans(),
    "kmeans-restarts": KMeans(restarts=3),
    "kmedoids": KMedoids(),
    "birch": Birch(),
    "direct": DIRECT(),
    "direct-k3": DIRECT(k=3),
    "rnd": RND(),
    "rnd-whitened": RND(whiten=True, pooling="sum", steps=5),
    "rnd-batches": RND(picks_per_update=5),
    "lcmd": LCMD(),
    "lcmd-mean": LCMD(pooling="mean"),
    "max_dist": MaxDistGradients(),
    "set_cover": SetCover(),
    "set_cover-quests": SetCover(criterion="quests", components=None),
    "set_cover-max": SetCover(criterion="max"),
    "set_cover-mean": SetCover(criterion="mean"),
    "set_cover-uncovered": SetCover(criterion="uncovered"),
    "set_cover-few": SetCover(environments=20),
    "facility": FacilityLocation(),
    "facility-distance": FacilityLocation(similarity="distance", pooling="per_element"),
    "facility-sampled": FacilityLocation(exact_frames=10),
    "flat_energy": FlatEnergy(),
    "flat_density": FlatDensity(bins=5),
    "committee": CommitteeDeviation(high=1e6),
    "committee-rms": CommitteeDeviation(score="rms", abnormal="last"),
    "atomic_uncertainty": AtomicUncertainty(),
    "chain": Chain(),
    "chain-steps": Chain(
        filters=[Outliers(share=0.0)], deduplicate=1.2, choose=RandomSelector(), fill=MaxDet()
    ),
}
FULL = {"full": FullSelector()}

# What a method says of frames that are all alike, where it cannot choose among them; of one frame, likewise.
REFUSES_COPIES = {"CPD": "same features"}
REFUSES_ONE = {"CPD": "at least two frames"}
# These do not look at what is chosen already: chance, time, labels, or a share of each group is their reason.
IGNORES_HELD = (
    "RandomSelector", "Uniform", "Stratified", "CPD", "FlatEnergy", "FlatDensity", "CommitteeDeviation",
    "AtomicUncertainty", "Chain",
)  # fmt: skip

MakeFeatures = Callable[..., Features]


class Bench:
    """Makes pools that suit a selector and selects from them."""

    def __init__(self, make_features: MakeFeatures, folder: Path) -> None:
        self._make, self._folder = make_features, folder

    def features(self, selector: Selector, frames: int = 60, **settings: Any) -> Features:
        """Features of ``frames`` frames of 3 to 6 atoms; predictions of a committee for those who ask."""
        return self.suited(selector, self._make(frames, **settings))

    def select(self, selector: Selector, features: Features, budget: Any, **arguments: Any) -> Selection:
        """``select`` with the frames and groups that the selector needs."""
        arguments = {"groups": np.array([f"g{i % 3}" for i in range(len(features))]), **arguments}
        if selector.uses_labels or selector.uses_frames:
            arguments.setdefault("frames", self.frames(features))
        return selector.select(features, budget, **arguments)

    def frames(self, features: Features, seed: int = 5) -> FrameStore:
        """A labelled pool of frames of the same sizes."""
        return store(tuple(features.num_atoms.tolist()), self._folder, seed)

    def suited(self, selector: Selector, features: Features) -> Features:
        """The features as predictions of a committee of two models for those who ask, and of the frames' own
        pool for those who read them."""
        if selector.uses_labels or selector.uses_frames:
            features = replace(features, pool_hash=self.frames(features).hash)
        if not isinstance(selector, CommitteeDeviation | AtomicUncertainty):
            return features
        settings = {"descriptor": "CommitteePredictions", "models": 2}
        return replace(features, rows=np.tile(features.rows, 2)[:, :8], descriptor=settings)


@lru_cache
def store(num_atoms: tuple[int, ...], folder: Path, seed: int) -> FrameStore:
    """A labelled pool of frames of these sizes; the content has nothing to do with the features."""
    rng = np.random.default_rng(seed)

    def frame(n: int) -> Configuration:
        return Configuration(
            numbers=np.ones(n, dtype=np.int64),
            positions=np.arange(n)[:, None] * [0.9, 0.3, 0.0] + 0.1 * rng.normal(size=(n, 3)),
            cell=np.eye(3) * rng.uniform(6, 9),
            pbc=np.ones(3, dtype=bool),
            energy=float(rng.normal()),
            forces=rng.normal(size=(n, 3)),
        )

    return FrameStore.build([frame(n) for n in num_atoms], folder)
