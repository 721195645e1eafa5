"""Learners of a comparison: exact ridge on random ACE, and a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emt_pool import emt_frames

from msmlff.analysis.errors import error_table
from msmlff.data.formats import write_frames
from msmlff.data.pools import Pool, PoolSpec, load_pool
from msmlff.errors import InputError
from msmlff.models import MACEArchitecture
from msmlff.training import probe
from msmlff.training.learner import Learner, NetworkLearner
from msmlff.training.optim import ScheduleSpec
from msmlff.training.probe import RidgeProbe
from msmlff.training.specs import TrainingSpec

PROBE = RidgeProbe(cutoff=4.5, channels=6, l_max=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    for name, count, seed in (("pool", 40, 1), ("val", 8, 2), ("test", 10, 3)):
        write_frames(folder / f"{name}.extxyz", emt_frames(count, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSMLFF_CACHE", str(folder / "cache"))
        return load_pool(PoolSpec("emt", str(folder)))


def percent(learner: Learner, pool: Pool, ids: np.ndarray, seed: int = 0) -> float:
    overall = error_table(learner.predictions(pool, ids, seed))["overall"]
    return float(overall["force_rmse_percent"])


def test_the_probe_learns_and_more_frames_help(pool: Pool) -> None:
    few, many = percent(PROBE, pool, np.arange(4)), percent(PROBE, pool, np.arange(40))
    assert many < 30
    assert many < 0.7 * few


def test_the_probe_is_the_ridge_regression_of_scikit_learn(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same minimum from scikit-learn on the weighted rows."""
    from sklearn.linear_model import Ridge

    monkeypatch.setattr(probe, "RIDGES", (1e-6,))
    ids = np.array([3, 1, 30, 12, 7])
    ours = PROBE.predictions(pool, ids, 0)
    train, test = PROBE._design(pool, "train", 0), PROBE._design(pool, "test", 0)
    baseline = np.linalg.lstsq(train.composition[ids].astype(float), pool.train.energy[ids], rcond=None)[0]
    parts, targets = [], []
    for i in ids:
        x = np.array(train.matrix[train.offsets[i] : train.offsets[i + 1]], dtype=np.float64)
        y = train.labels[train.offsets[i] : train.offsets[i + 1]].copy()
        y[0] -= train.composition[i] @ baseline
        weight = 10.0 * np.sqrt(3 / 8)
        x[0], y[0] = weight * x[0], weight * y[0]
        parts.append(x)
        targets.append(y)
    x, y = np.concatenate(parts), np.concatenate(targets)
    scale = np.sqrt((x**2).mean(axis=0))
    fitted = Ridge(alpha=1e-6 * len(y), fit_intercept=False, solver="cholesky").fit(x / scale, y)
    expected = np.asarray(test.matrix, dtype=np.float64) @ (fitted.coef_ / scale)
    first = test.offsets[:-1]
    is_force = np.setdiff1d(np.arange(len(expected)), first)
    np.testing.assert_allclose(ours.forces.ravel(), expected[is_force], atol=2e-3)
    np.testing.assert_allclose(ours.energy, expected[first] + test.composition @ baseline, atol=2e-3)


def test_the_order_of_the_frames_does_not_matter(pool: Pool) -> None:
    ids = np.arange(12)
    one, other = (PROBE.predictions(pool, order, 0) for order in (ids, ids[::-1]))
    np.testing.assert_allclose(one.forces, other.forces, atol=1e-4)


def test_growing_budgets_give_what_each_gives_alone(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(0).permutation(40)
    grown = [PROBE.predictions(pool, order[:n], 0) for n in (10, 20, 35)]
    assert probe._last is not None
    assert probe._last[2].frames == set(order[:35].tolist())
    for n, after in zip((10, 20, 35), grown, strict=True):
        monkeypatch.setattr(probe, "_last", None)
        alone = PROBE.predictions(pool, order[:n], 0)
        np.testing.assert_allclose(after.forces, alone.forces, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after.energy, alone.energy, rtol=1e-7)


def test_the_seed_draws_other_features(pool: Pool) -> None:
    one, other = (PROBE.predictions(pool, np.arange(12), seed) for seed in (0, 1))
    assert np.abs(one.forces - other.forces).max() > 1e-3


def test_energies_alone_are_enough(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSMLFF_CACHE", str(tmp_path / "cache"))
    for name, count, seed in (("pool", 20, 1), ("val", 5, 2), ("test", 5, 3)):
        frames = [f.__class__(**{**f.__dict__, "forces": None}) for f in emt_frames(count, seed)]
        write_frames(tmp_path / f"{name}.extxyz", frames)
    bare = load_pool(PoolSpec("bare", str(tmp_path), require=("energy",)))
    overall = error_table(PROBE.predictions(bare, np.arange(20), 0))["overall"]
    assert overall["force_rmse"] is None
    assert overall["energy_rmse"] < 200


def test_designs_are_computed_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = PROBE.predictions(pool, np.arange(5), 0)
    monkeypatch.setattr(probe, "_designs", {})
    monkeypatch.setattr("msmlff.models.random_ace.RandomACE.design", None)  # a call would fail
    np.testing.assert_array_equal(PROBE.predictions(pool, np.arange(5), 0).forces, before.forces)


def test_a_network_learns(pool: Pool) -> None:
    learner = NetworkLearner(
        MACEArchitecture(cutoff=4.0, l_max=1, channels=4, layers=1, correlation=2, radial_mlp=(8,)),
        TrainingSpec(steps=30, validations=2, schedule=ScheduleSpec(warmup_steps=4)),
    )
    assert percent(learner, pool, np.arange(12)) < 100
    one, again = (learner.predictions(pool, np.arange(6), 3) for _ in range(2))
    np.testing.assert_array_equal(one.forces, again.forces)


def test_impossible_settings() -> None:
    with pytest.raises(InputError, match=r"learner\.energy_weight"):
        RidgeProbe(energy_weight=0.0)
    with pytest.raises(InputError, match="cutoff"):
        RidgeProbe(cutoff=-1.0)
