"""distill(): selection, map, coverage and files of a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.data.formats import read_frames
from msmlff.data.store import FrameStore
from msmlff.distill.coverage import coverage
from msmlff.distill.cpd import CPD
from msmlff.distill.descriptors import UntrainedMACE
from msmlff.distill.features import Features
from msmlff.distill.pool_map import PoolMap, pool_map
from msmlff.distill.run import distill, write_distillation
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Rules
from msmlff.distill.simple import FullSelector, RandomSelector
from msmlff.errors import InputError

DESCRIPTOR = UntrainedMACE(cutoff=3.0, channels=4, layers=1, device="cpu")
MakeFeatures = Callable[..., Features]


@pytest.fixture
def store(frames: list[Configuration], tmp_path: Path) -> FrameStore:
    return FrameStore.build(frames, tmp_path / "cache")


def test_selection_map_and_files(store: FrameStore, tmp_path: Path) -> None:
    selection, chart = distill(store, CPD(), 6, features=DESCRIPTOR(store), seed=1, rules=Rules(must=[5]))
    assert chart is not None
    paths = write_distillation(tmp_path / "out", store, selection, chart)
    assert {p.name for p in paths.values()} == {"selection.json", "pool_map.npz", "selected.extxyz"}

    back = Selection.load(paths["selection"])
    back.check_pool(store.hash, len(store))
    assert back.ids.tolist() == selection.ids.tolist()
    assert back.ids[0] == 5
    assert back.record["descriptor"]["descriptor"] == "UntrainedMACE"
    assert set(back.record["coverage"]["groups"]) == {"run0", "run1", "run2"}

    arrays = PoolMap.load(paths["pool_map"])
    assert arrays.frame_id.tolist() == list(range(24))
    assert np.flatnonzero(arrays.chosen).tolist() == sorted(back.ids)
    assert arrays.group.tolist() == store.group.tolist()
    np.testing.assert_array_equal(arrays.log_density[back.ids], back.scores)
    assert arrays.band[back.ids].tolist() == back.columns["band"].tolist()

    written = list(read_frames(paths["frames"]))
    assert [f.info["frame_id"] for f in written] == back.ids.tolist()
    for frame, i in zip(written, back.ids, strict=True):
        np.testing.assert_allclose(frame.positions, store[int(i)].positions, atol=1e-7)
        assert frame.energy == pytest.approx(store[int(i)].energy)
        assert frame.forces is not None
        assert frame.info["step"] == i
        assert frame.group == store.group[i]


def test_unlabelled_pool(frames: list[Configuration], tmp_path: Path) -> None:
    bare = [replace(f, energy=float("nan"), forces=None) for f in frames]
    store = FrameStore.build(bare, tmp_path / "cache")
    selection, chart = distill(store, CPD(), 6, features=DESCRIPTOR(store), seed=1)
    written = list(read_frames(write_distillation(tmp_path / "out", store, selection, chart)["frames"]))
    assert len(written) == 6
    assert all(f.forces is None and np.isnan(f.energy) for f in written)


def test_labels_do_not_change_the_choice(frames: list[Configuration], tmp_path: Path) -> None:
    bare = [replace(f, energy=float("nan"), forces=None) for f in frames]
    chosen = []
    for x in (frames, bare):
        store = FrameStore.build(x, tmp_path / "cache")
        chosen.append(distill(store, CPD(), 6, features=DESCRIPTOR(store), seed=1)[0].ids.tolist())
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(("selector", "budget"), [(RandomSelector(), 6), (FullSelector(), None)])
def test_other_selectors_have_a_map_too(
    store: FrameStore, selector: RandomSelector | FullSelector, budget: int | None
) -> None:
    selection, chart = distill(store, selector, budget, features=DESCRIPTOR(store), seed=1)
    assert chart is not None
    assert chart.chosen.sum() == len(selection)
    assert set(chart.band) == {"central", "middle", "peripheral"}
    np.testing.assert_array_equal(chart.log_density, CPD().landscape(DESCRIPTOR(store)).density.log)


def test_no_descriptor_is_enough_for_chance_alone(store: FrameStore, tmp_path: Path) -> None:
    selection, chart = distill(store, RandomSelector(), 6, features=None, seed=1)
    with_map, _ = distill(store, RandomSelector(), 6, features=DESCRIPTOR(store), seed=1)
    assert chart is None
    assert selection.ids.tolist() == with_map.ids.tolist()
    assert set(write_distillation(tmp_path, store, selection, chart)) == {"selection", "frames"}
    with pytest.raises(InputError, match="CPD needs a descriptor"):
        distill(store, CPD(), 6, features=None, seed=1)


def test_selection_of_another_pool_is_not_written(store: FrameStore, tmp_path: Path) -> None:
    selection, chart = distill(store.subset(range(20)), RandomSelector(), 6, features=None, seed=1)
    with pytest.raises(InputError, match="another pool"):
        write_distillation(tmp_path, store, selection, chart)


def test_map_of_frames_that_cannot_be_told_apart() -> None:
    features = Features(np.ones((6, 2)), np.array([0, 2, 4, 6]), np.ones(6, dtype=int), "pool")
    chart = pool_map(features, RandomSelector().select(features, 2, seed=1))
    assert np.isnan(chart.log_density).all()
    assert chart.chosen.sum() == 2
    assert set(chart.band) == {""}


def test_file_that_is_no_map(tmp_path: Path) -> None:
    (tmp_path / "pool_map.npz").write_text("not a zip")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("pool_map.npz", "other.npz", "none.npz"):
        with pytest.raises(InputError, match=name):
            PoolMap.load(tmp_path / name)


def test_everything_covers_everything(make_features: MakeFeatures) -> None:
    features = make_features(50)
    kept = coverage(features, FullSelector().select(features, None, seed=1))
    assert kept["frames"]["share"] == kept["environments"]["share"] == 1.0
    # Squared distances come from a difference of large numbers, in float32 for environments.
    assert kept["frames"]["max_distance"] < 1e-5
    assert kept["environments"]["max_distance"] < 1e-2


def test_coverage_counts_clusters_and_groups() -> None:
    """Two clusters of 20 frames; the selection sits in one of them."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 2))
    points[20:, 0] += 500.0
    features = Features(points, np.arange(41), np.ones(40, dtype=int), "pool")
    groups = np.repeat(["here", "there"], 20)
    selection = RandomSelector().select(features, 20, reference=list(range(20, 40)), seed=1)
    alone = Selection(selection.ids, selection.scores, selection.record | {"reference": []})
    kept = coverage(features, alone, groups, pooling="mean")
    assert kept["groups"]["here"] == {"pool": 20, "chosen": 20, "share": 1.0}
    assert kept["groups"]["there"] == {"pool": 20, "chosen": 0, "share": 0.0}
    assert kept["frames"]["share"] == 0.5
    # Frames that were chosen before count as kept.
    assert coverage(features, selection, groups, pooling="mean")["frames"]["share"] == 1.0
