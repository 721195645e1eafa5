"""Coverage: known clusters, entropy, elements, tails of labels, the short table, large pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill import coverage_environments
from msmlff.distill.coverage import components, coverage
from msmlff.distill.coverage_table import coverage_table
from msmlff.distill.entropy import default_bandwidth, entropy, overlap
from msmlff.distill.features import Features
from msmlff.distill.selection import Selection
from msmlff.distill.simple import FullSelector, RandomSelector
from msmlff.distill.space import environment_space

MakeFeatures = Callable[..., Features]


def selection_of(features: Features, ids: list[int], reference: tuple[int, ...] = ()) -> Selection:
    record = FullSelector().select(features, None, seed=0).record
    return Selection(np.array(ids), np.zeros(len(ids)), record | {"reference": list(reference)})


def two_clusters() -> Features:
    """40 frames of two atoms; the last 20 are far away, and of another element."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 3))
    rows[40:, :2] += 300.0
    return Features(rows, np.arange(0, 81, 2), np.repeat([1, 8], 40), "pool")


def test_one_of_two_clusters() -> None:
    kept = coverage(two_clusters(), selection_of(two_clusters(), list(range(20))), pooling="mean")
    assert kept["environments"]["share"] == 0.5
    assert kept["entropy"]["overlap"] <= 0.5
    assert kept["elements"] == {
        "H": {"pool": 40, "chosen": 40, "share": 1.0},
        "O": {"pool": 40, "chosen": 0, "share": 0.0},
    }
    assert kept["components"][0]["range"] < 0.5
    both = coverage(
        two_clusters(), selection_of(two_clusters(), list(range(20)), tuple(range(20, 40))), pooling="mean"
    )
    assert both["environments"]["share"] == both["entropy"]["overlap"] == 1.0
    assert both["components"][0] == pytest.approx(
        {"explained": both["components"][0]["explained"], "range": 1, "bins": 1}
    )


def test_entropy_is_that_of_the_whole_sets(make_features: MakeFeatures) -> None:
    """Of a small pool nothing is a sample, so the numbers are the formula's."""
    features = make_features(60)
    ids = np.arange(0, 60, 3)
    kept = coverage(features, selection_of(features, ids.tolist()))["entropy"]
    x = environment_space(features, 16)(features.rows)
    h, numbers = default_bandwidth(features, 16), features.numbers
    inside = np.isin(np.repeat(np.arange(60), features.num_atoms), ids)
    assert kept["bandwidth"] == h
    assert kept["pool"] == pytest.approx(entropy(x, h, numbers), abs=1e-3)
    assert kept["selection"] == pytest.approx(entropy(x[inside], h, numbers[inside]), abs=1e-3)
    assert kept["overlap"] == pytest.approx(overlap(x, x[inside], h, numbers, numbers[inside]), abs=0.01)


def test_more_frames_never_cover_less(make_features: MakeFeatures) -> None:
    features = make_features(60)
    whole = RandomSelector().select(features, 60, seed=3)
    shares = [coverage(features, whole.first(n)) for n in (5, 15, 40, 60)]
    for key, name in (("frames", "share"), ("environments", "share"), ("entropy", "overlap")):
        values = [kept[key][name] for kept in shares]
        assert values == sorted(values)
        assert values[-1] == 1.0


def test_components_range_and_bins() -> None:
    points = np.linspace(0, 1, 1000)[:, None]
    (kept,) = components(points, np.ones(1), np.arange(500))
    assert kept["range"] == pytest.approx(0.5, abs=0.01)
    assert kept["bins"] == pytest.approx(0.5, abs=0.051)


def labelled_pool(folder: Path, with_forces: bool = True) -> FrameStore:
    """100 frames of two atoms; energy and force grow with the number of the frame."""
    frames = [
        Configuration(
            numbers=np.ones(2, dtype=np.int64),
            positions=np.array([[0.0, 0, 0], [0.8 + 0.001 * i, 0, 0]]),
            energy=float(i),
            forces=np.array([[float(i), 0, 0], [-float(i), 0, 0]]) if with_forces else None,
            source=f"made:{i}",
        )
        for i in range(100)
    ]
    return FrameStore.build(frames, cache_dir=folder)


def test_tails_of_labels(tmp_path: Path) -> None:
    store = labelled_pool(tmp_path)
    rows = np.repeat(np.arange(100.0), 2)[:, None] * [1.0, 0.5]
    features = Features(rows, np.arange(0, 201, 2), np.ones(200, dtype=int), store.hash)
    kept = coverage(features, selection_of(features, list(range(98))), labels=store)
    assert kept["tails"]["energy_low"]["5 %"] == {"count": 5, "chosen": 1.0, "near": 1.0}
    assert kept["tails"]["energy_high"]["5 %"]["chosen"] == 0.6
    assert kept["tails"]["frame_force"]["1 %"] == {"count": 1, "chosen": 0.0, "near": 0.0}
    assert kept["tails"]["atom_force"]["5 %"]["count"] == 10
    assert kept["tails"]["atom_force"]["5 %"]["chosen"] == 0.6
    assert kept["labels"]["force"]["ratio"]["max"] == pytest.approx(97 / 99)
    energies = kept["labels"]["energy_per_atom"]
    assert energies["pool"]["q50"] == pytest.approx(99 / 4)
    assert energies["span_ratio"] == pytest.approx(97 / 99)


def test_labels_that_are_missing(tmp_path: Path) -> None:
    store = labelled_pool(tmp_path, with_forces=False)
    rows = np.repeat(np.arange(100.0), 2)[:, None] * [1.0, 0.5]
    features = Features(rows, np.arange(0, 201, 2), np.ones(200, dtype=int), store.hash)
    kept = coverage(features, selection_of(features, [3, 9]), labels=store)
    assert set(kept["tails"]) == {"energy_low", "energy_high"}
    assert set(kept["labels"]) == {"energy_per_atom"}
    assert "tails" not in coverage(features, selection_of(features, [3, 9]))


def test_table_is_short_and_names_chance(make_features: MakeFeatures) -> None:
    features = make_features(60)
    groups = np.array(["a", "b"])[np.arange(60) % 2]
    selection = selection_of(features, list(range(0, 60, 4)))
    rows = coverage_table({"coverage": coverage(features, selection, groups)})
    assert all(isinstance(text, str) for row in rows for text in row)
    assert len(rows) <= 10
    assert "random: " in dict(rows)["frames near the selection"]
    assert {"least covered element", "least covered group"} <= set(dict(rows))
    assert coverage_table({}) == coverage_table({"coverage": {}}) == []
    # A record of an earlier version.
    summary = {"radius": 1.0, "share": 0.5, "mean_distance": 1.0, "max_distance": 2.0}
    assert len(coverage_table({"coverage": {"frames": summary, "environments": summary}})) == 2


def test_samples_of_a_large_pool_estimate_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20000, 4)).astype(np.float32)
    ids = list(range(0, 2000, 4))

    def kept() -> dict[str, dict[str, float]]:
        features = Features(rows, np.arange(0, 20001, 10), np.ones(20000, dtype=int), "pool")
        return coverage(features, selection_of(features, ids))

    whole = kept()
    monkeypatch.setattr(coverage_environments, "SEARCHED", 8000)
    part = kept()
    assert part["environments"]["share"] == pytest.approx(whole["environments"]["share"], abs=0.05)
    assert part["entropy"]["pool"] == pytest.approx(whole["entropy"]["pool"], abs=0.2)


def test_noise_of_float32_is_no_variation() -> None:
    """Copies of a frame whose features differ in the last digits: all frames are alike."""
    rng = np.random.default_rng(0)
    rows = (np.array([3.0, -70.0, 0.5]) * (1 + 1e-7 * rng.normal(size=(40, 3)))).astype(np.float32)
    assert np.ptp(rows, axis=0).any()
    copies = Features(rows, np.arange(0, 41, 2), np.ones(40, dtype=int), "pool")
    assert coverage(copies, selection_of(copies, [0, 5])) == {}
