"""CPD on pools whose dense and sparse frames are known, and on the counts of the paper's setting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from msmlff.distill.cpd import CPD
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.errors import InputError

MEAN = CPD(pooling="mean", standardise=False, variance=1.0)


def one_atom_frames(points: np.ndarray) -> Features:
    n = len(points)
    return Features(points, np.arange(n + 1), np.ones(n, dtype=int), "pool", {"descriptor": "points"})


def shells(seed: int = 0) -> tuple[Features, np.ndarray]:
    """200 shuffled frames: 40 in a tight cluster ("central"), 120 around it, 40 far out ("peripheral")."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(["central", "middle", "peripheral"], [40, 120, 40])
    direction = rng.normal(size=(200, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = np.concatenate([rng.uniform(0, 0.3, 40), rng.uniform(1.5, 2.0, 120), rng.uniform(8, 16, 40)])
    order = rng.permutation(200)
    return one_atom_frames((direction * radius[:, None])[order]), kind[order]


def counts(selection: Selection) -> Counter[str]:
    return Counter(selection.columns["band"].tolist())


@pytest.mark.parametrize(
    "method", [MEAN, CPD(pooling="mean", standardise=False, variance=1.0, density="knn")]
)
def test_bands_are_the_dense_and_the_sparse_frames(method: CPD) -> None:
    features, kind = shells()
    assert method.landscape(features).band.tolist() == kind.tolist()


def test_draws_come_from_both_bands_and_carry_their_density() -> None:
    features, kind = shells()
    selection = MEAN.select(features, 40, seed=1)
    assert Counter(kind[selection.ids]) == {"central": 20, "peripheral": 20}
    assert selection.columns["band"].tolist() == kind[selection.ids].tolist()
    central, peripheral = (
        selection.scores[selection.columns["band"] == b] for b in ("central", "peripheral")
    )
    assert central.min() >= selection.record["details"]["central_above"]
    assert peripheral.max() <= selection.record["details"]["peripheral_below"]
    assert central.min() > peripheral.max()


@pytest.mark.parametrize(
    ("budget", "central", "peripheral", "middle"),
    [
        (1, 1, 0, 0),
        (50, 25, 25, 0),
        (99, 50, 49, 0),
        (200, 100, 100, 0),
        (230, 115, 115, 0),
        (231, 115, 115, 1),
        (400, 115, 115, 170),
        (575, 115, 115, 345),
    ],
)
def test_quotas_of_the_papers_pool(budget: int, central: int, peripheral: int, middle: int) -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(575, 4)))
    assert counts(CPD(pooling="mean").select(features, budget, seed=1)) == Counter(
        central=central, peripheral=peripheral, middle=middle
    )


def test_overflow_of_one_band_goes_to_the_middle_and_not_to_the_other_band() -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(200, 2)))
    method = CPD(pooling="mean", central=0.05, peripheral=0.4)
    assert counts(method.select(features, 100, seed=1)) == Counter(central=10, middle=40, peripheral=50)


def test_central_share() -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(200, 2)))
    for share, central in ((0.0, 0), (0.25, 10), (0.8, 32), (1.0, 40)):
        chosen = counts(CPD(pooling="mean", central_share=share).select(features, 40, seed=1))
        assert (chosen["central"], chosen["peripheral"]) == (central, 40 - central)


def test_reference_counts_towards_the_quotas() -> None:
    features, kind = shells()
    reference = np.flatnonzero(kind == "central")[:10].tolist()
    selection = MEAN.select(features, 30, reference=reference, seed=1)
    assert counts(selection) == Counter(central=10, peripheral=20)


def test_every_frame_of_a_band_is_as_likely_with_uniform_weights() -> None:
    features, kind = shells()
    drawn = Counter(i for seed in range(300) for i in MEAN.select(features, 20, seed=seed).ids.tolist())
    hits = np.array([drawn[i] for i in np.flatnonzero(kind == "central")])
    # 10 of 40, 300 times: mean 75, standard deviation 7.5.
    assert hits.mean() == pytest.approx(75)
    assert hits.min() > 45
    assert hits.max() < 105


def test_rank_weights_prefer_the_extremes() -> None:
    features, kind = shells()
    method = CPD(pooling="mean", standardise=False, variance=1.0, weights="rank")
    log = method.landscape(features).density.log
    drawn = Counter(i for seed in range(200) for i in method.select(features, 20, seed=seed).ids.tolist())
    for name, outward in (("central", -log), ("peripheral", log)):
        members = np.flatnonzero(kind == name)
        members = members[np.argsort(outward[members])]
        hits = np.array([drawn[i] for i in members])
        assert hits[:10].mean() > 1.5 * hits[-10:].mean()


def test_bands_that_meet() -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(51, 2)))
    chosen = counts(CPD(pooling="mean", central=0.5, peripheral=0.5).select(features, 51, seed=1))
    assert chosen == Counter(central=26, peripheral=25)


def test_record_of_the_method() -> None:
    features, _ = shells()
    details = MEAN.select(features, 10, seed=1).record["details"]
    assert details["components"] == 3
    assert details["explained_variance"] == pytest.approx(1.0)
    assert details["bandwidth"] > 0
    assert details["band_sizes"] == {"central": 40, "middle": 120, "peripheral": 40}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"central": -0.1}, "selector.central=-0.1"),
        ({"peripheral": 1.5}, "selector.peripheral=1.5"),
        ({"central": 0.6, "peripheral": 0.5}, "overlap"),
        ({"central_share": 2}, "selector.central_share=2"),
        ({"pooling": "max"}, "mean, mean_std, per_element"),
        ({"density": "tree"}, "kde, knn"),
        ({"weights": "linear"}, "uniform, rank"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CPD(**settings)  # type: ignore[arg-type]
