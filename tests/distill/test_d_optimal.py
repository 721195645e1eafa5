"""D-optimal design on environments: the definition, by brute force; what it finds that frames' means hide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from msmlff.distill import d_optimal
from msmlff.distill.d_optimal import DOptimal
from msmlff.distill.features import Features
from msmlff.distill.linear import MaxDet
from msmlff.distill.space import environment_space
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]


def gain_by_definition(features: Features, chosen: list[int], noise: float) -> float:
    """sum_z log det (1 + sum over chosen atoms of z of (1, x) (1, x)^T / noise)."""
    space = environment_space(features, 32)
    points = space(features.rows)
    points = points / np.sqrt((points**2).sum(axis=1).mean())
    frame = np.repeat(np.arange(len(features)), features.num_atoms)
    total = 0.0
    for z in np.unique(features.numbers):
        x = points[np.isin(frame, chosen) & (features.numbers == z)]
        phi = np.concatenate([np.ones((len(x), 1)), x], axis=1)
        total += np.linalg.slogdet(np.eye(phi.shape[1]) + phi.T @ phi / noise)[1]
    return float(total)


@pytest.mark.parametrize("noise", [0.01, 1.0])
@pytest.mark.parametrize("reference", [[], [4, 7]])
def test_picks_and_gains_by_definition(
    make_features: MakeFeatures, noise: float, reference: list[int]
) -> None:
    features = make_features(25)
    selection = DOptimal(noise=noise).select(features, 8, reference=reference, seed=1)
    chosen = list(reference)
    for i, score in zip(selection.ids.tolist(), selection.scores, strict=True):
        before = gain_by_definition(features, chosen, noise)
        gains = {
            f: gain_by_definition(features, [*chosen, f], noise) - before
            for f in range(25)
            if f not in chosen
        }
        assert gains[i] == pytest.approx(max(gains.values()), rel=1e-4)
        assert score == pytest.approx(gains[i], rel=1e-3)
        chosen.append(i)
    assert selection.record["details"]["information"] == pytest.approx(
        gain_by_definition(features, chosen, noise) / 2, rel=1e-4
    )


def test_per_atom_is_the_largest_gain_for_each_atom(make_features: MakeFeatures) -> None:
    features = make_features(25)
    first = int(DOptimal(per_atom=True).select(features, 1, seed=1).ids[0])
    gains = [gain_by_definition(features, [f], 0.01) / features.num_atoms[f] for f in range(25)]
    assert first == int(np.argmax(gains))


def test_one_odd_atom_counts_in_full() -> None:
    """A frame of 50 atoms, one of them unlike all others: its mean hardly moves, its information does."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20 * 50, 4)) * [3.0, 3.0, 3.0, 0.01]
    rows[13 * 50 + 7, 3] = 0.5
    features = Features(rows.astype(np.float32), np.arange(0, 1001, 50), np.ones(1000, dtype=int), "pool")
    by_atoms = DOptimal().select(features, 3, seed=1).ids.tolist()
    by_frames = MaxDet(pooling="mean", standardise=False).select(features, 3, seed=1).ids.tolist()
    assert by_atoms[0] == 13
    assert 13 not in by_frames


def test_a_rare_element_is_seen_early(make_features: MakeFeatures) -> None:
    features = make_features(25)
    features.numbers[features.offsets[17]] = 79
    assert 17 in DOptimal().select(features, 4, seed=1).ids


def test_fewer_components_where_the_moments_would_not_fit(
    make_features: MakeFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 frames of two elements with 1 + 3 components take 3200 bytes, with 1 + 2 they take 1800."""
    whole = DOptimal().select(make_features(25), 8, seed=1)
    assert "components" not in whole.record["details"]  # all five, fewer than the 32 of the settings
    monkeypatch.setattr(d_optimal, "MEMORY", 3199)
    part = DOptimal().select(make_features(25), 8, seed=1)
    assert part.record["details"]["components"] == 2
    few = DOptimal(components=2).select(make_features(25), 8, seed=1)
    assert part.ids.tolist() == few.ids.tolist()
    assert "components" not in few.record["details"]
    monkeypatch.setattr(d_optimal, "MEMORY", 3200)
    assert DOptimal().select(make_features(25), 8, seed=1).record["details"]["components"] == 3


@pytest.mark.parametrize("settings", [{"components": 0}, {"noise": 0.0}, {"noise": -1.0}])
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"selector.{next(iter(settings))}"):
        DOptimal(**settings)  # type: ignore[arg-type]
