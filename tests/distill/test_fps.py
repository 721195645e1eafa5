"""Farthest-point sampling against its definition, over frames and environments, and what forces change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill import farthest as module
from msmlff.distill.farthest import FarthestPoints, Rows
from msmlff.distill.features import Features
from msmlff.distill.fps import FPS, EnvironmentFPS, ForceWeightedFPS
from msmlff.distill.selector import Rules
from msmlff.errors import InputError

MakeFeatures = Callable[..., Features]
PLAIN = FPS(pooling="mean", standardise=False, start="centre")


def one_atom_frames(points: np.ndarray, pool_hash: str = "pool") -> Features:
    n = len(points)
    return Features(points, np.arange(n + 1), np.ones(n, dtype=int), pool_hash, {"descriptor": "points"})


def by_definition(points: np.ndarray, chosen: list[int], count: int) -> list[int]:
    """Gonzalez's rule, every distance measured by differences; the first of equal ones."""
    squares = np.min([((points - points[i]) ** 2).sum(axis=1) for i in chosen], axis=0)
    squares[chosen] = -1
    picks = []
    for _ in range(count):
        i = int(squares.argmax())
        picks.append(i)
        squares = np.minimum(squares, ((points - points[i]) ** 2).sum(axis=1))
        squares[[*chosen, *picks]] = -1
    return picks


def pools() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(400, 6))
    return {
        "gaussian": normal,
        "far from the origin": 1e5 + normal,
        "lattice": np.round(normal[:, :3]),
        "duplicates": np.concatenate([normal[:100]] * 3),
        "outliers": normal * np.where(rng.random(400) < 0.02, 1e4, 1.0)[:, None],
        "line": np.arange(50.0)[:, None],
    }


@pytest.mark.parametrize("hot", [1, 60, 1 << 20], ids=["hot-1", "hot-10", "hot-all"])
@pytest.mark.parametrize("points", pools().values(), ids=pools())
def test_picks_are_those_of_the_definition(
    points: np.ndarray, hot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOT", hot)
    engine = FarthestPoints(Rows.of(points), np.arange(len(points)))
    engine.add(3)
    ids, values = engine.choose(len(points) - 1)
    assert ids.tolist() == by_definition(points, [3], len(points) - 1)
    assert (np.diff(values) <= 0).all()


# skmatter.sample_selection.FPS(n_to_select=60, initialize=0) of scikit-matter 0.4.1 on the points of the test
SCIKIT_MATTER = [
    0, 147, 87, 125, 176, 3, 78, 62, 227, 144, 206, 15, 276, 24, 153, 42, 251, 34, 214, 213, 285, 73, 173,
    154, 83, 138, 88, 129, 149, 96, 100, 86, 299, 252, 113, 107, 71, 76, 36, 46, 123, 11, 22, 284, 160,
    111, 164, 131, 57, 226, 263, 275, 19, 119, 232, 179, 212, 188, 186, 170,
]  # fmt: skip


def test_order_of_scikit_matter() -> None:
    points = np.random.default_rng(1).normal(size=(300, 8))
    engine = FarthestPoints(Rows.of(points), np.arange(300))
    engine.add(0)
    assert [0, *engine.choose(59)[0]] == SCIKIT_MATTER


def test_known_order_on_a_line() -> None:
    features = one_atom_frames(np.array([[0.0], [1.0], [4.0], [5.0], [10.0]]))
    selection = PLAIN.select(features, 5, seed=0)
    # The mean is 4; then the far end, the near one, and the middle of what is left.
    assert selection.ids.tolist() == [2, 4, 0, 1, 3]
    assert np.isnan(selection.scores[0])
    np.testing.assert_allclose(selection.scores[1:], [6, 4, 1, 1])


def test_reference_is_complemented_and_its_near_copy_comes_last() -> None:
    features = one_atom_frames(np.array([[0.0], [1e-3], [3.0], [7.0]]))
    for held in ({"reference": [0]}, {"rules": Rules(must=[0])}):
        ids = PLAIN.select(features, 3 + ("rules" in held), seed=0, **held).ids  # type: ignore[arg-type]
        assert ids[-3:].tolist() == [3, 2, 1]


def test_start() -> None:
    features = one_atom_frames(np.random.default_rng(0).normal(size=(50, 3)))
    assert len({FPS().select(features, 1, seed=s).ids[0] for s in range(8)}) > 1
    assert len({PLAIN.select(features, 1, seed=s).ids[0] for s in range(8)}) == 1
    means = np.abs(features.rows - features.rows.mean(axis=0))
    assert PLAIN.select(features, 1, seed=0).ids[0] == (means**2).sum(axis=1).argmin()


def test_columns_count_alike_when_standardised() -> None:
    points = np.random.default_rng(0).normal(size=(80, 2))
    method = FPS(pooling="mean", start="centre")
    expected = method.select(one_atom_frames(points), 20, seed=0).ids
    scaled = method.select(one_atom_frames(points * [1.0, 1000.0]), 20, seed=0).ids
    assert scaled.tolist() == expected.tolist()


def test_projection_keeps_the_order_of_data_in_a_plane() -> None:
    plane = np.random.default_rng(0).normal(size=(60, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
    whole = PLAIN.select(one_atom_frames(plane), 30, seed=0)
    method = FPS(pooling="mean", standardise=False, start="centre", variance=1.0)
    assert method.select(one_atom_frames(plane), 30, seed=0).ids.tolist() == whole.ids.tolist()


def environment_values(features: Features, chosen: list[int], by_element: bool) -> np.ndarray:
    """[frames] directed Hausdorff distance of each frame to the chosen ones, all distances measured."""
    mean, std = features.moments()
    z = (features.rows - mean) / std
    squares = ((z[:, None] - z) ** 2).sum(axis=2)
    if by_element:
        squares[features.numbers[:, None] != features.numbers] = np.inf
    frame = np.repeat(np.arange(len(features)), features.num_atoms)
    least = squares[:, np.isin(frame, chosen)].min(axis=1)
    return np.sqrt(np.maximum.reduceat(least, features.offsets[:-1]))


@pytest.mark.parametrize("hot", [1, 1 << 20], ids=["hot-1", "hot-all"])
@pytest.mark.parametrize("by_element", [True, False])
def test_environments_by_definition(
    make_features: MakeFeatures, by_element: bool, hot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOT", hot)
    features = make_features(40, seed=5)
    selection = EnvironmentFPS(by_element=by_element).select(features, 25, seed=1)
    for k in range(1, 25):
        values = environment_values(features, selection.ids[:k].tolist(), by_element)
        values[selection.ids[:k]] = -1
        if np.isfinite(values.max()):
            assert selection.ids[k] == values.argmax()
            assert selection.scores[k] == pytest.approx(values.max(), rel=1e-5)
    left = environment_values(features, selection.ids.tolist(), by_element).max()
    assert selection.record["details"]["hausdorff_distance"] == pytest.approx(left, rel=1e-5)


def test_a_frame_with_a_new_element_comes_first() -> None:
    rows = np.arange(8.0)[:, None]
    numbers = np.array([1, 1, 1, 1, 1, 8, 1, 1])
    features = Features(rows, np.arange(0, 9, 2), numbers, "pool")
    selection = EnvironmentFPS().select(features, 2, reference=[0], seed=0)
    assert selection.ids.tolist() == [2, 3]
    assert np.isnan(selection.scores[0])
    assert EnvironmentFPS(by_element=False).select(features, 2, reference=[0], seed=0).ids[0] == 3


def test_one_odd_atom_is_seen_among_environments() -> None:
    """Pooled features hardly see the odd atom of frame 7; its distance to the nearest chosen atom does."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20 * 50, 3))
    rows[7 * 50 + 4] = 12.0
    features = Features(rows, np.arange(0, 1001, 50), np.ones(1000, dtype=int), "pool")
    assert EnvironmentFPS().select(features, 1, reference=[0], seed=0).ids.tolist() == [7]


def test_rows_on_disk_give_the_same_picks(make_features: MakeFeatures, tmp_path: Path) -> None:
    features = make_features(60)
    np.save(tmp_path / "rows.npy", features.rows)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    on_disk = Features(rows, features.offsets, features.numbers, features.pool_hash, features.descriptor)
    for method in (FPS(), EnvironmentFPS()):
        expected = method.select(features, 20, seed=2).ids
        assert method.select(on_disk, 20, seed=2).ids.tolist() == expected.tolist()


def store_of(forces: list[float], folder: Path) -> FrameStore:
    """One-atom frames with a force of this size along x."""
    return FrameStore.build(
        [
            Configuration(
                numbers=np.array([1]),
                positions=np.array([[0.1 * i, 0, 0]]),
                energy=0.0,
                forces=np.array([[f, 0.0, 0.0]]),
                source=f"made:{i}",
            )
            for i, f in enumerate(forces)
        ],
        folder,
    )


def test_forces_pull_the_choice(tmp_path: Path) -> None:
    frames = store_of([1.0, 2.0, 1.0, 0.0], tmp_path)
    features = one_atom_frames(np.array([[0.0], [4.0], [-5.0], [1.0]]), frames.hash)
    settings = {"pooling": "mean", "standardise": False}
    plain = FPS(**settings).select(features, 3, reference=[0], seed=0)  # type: ignore[arg-type]
    assert plain.ids.tolist() == [2, 1, 3]
    weighted = ForceWeightedFPS(**settings)  # type: ignore[arg-type]
    selection = weighted.select(features, 3, reference=[0], frames=frames, seed=0)
    assert selection.ids.tolist() == [1, 2, 3]
    # Forces over their median of 1; a force of zero counts as a thousandth of it.
    np.testing.assert_allclose(selection.scores, [8.0, 5.0, 1e-3])
    none = ForceWeightedFPS(**settings, power=0).select(features, 3, reference=[0], frames=frames, seed=0)  # type: ignore[arg-type]
    assert none.ids.tolist() == plain.ids.tolist()


def test_forces_that_are_no_numbers(tmp_path: Path) -> None:
    for forces, message in (
        ([1.0, np.nan, 1.0], "frame 1 has forces that are NaN"),
        ([0.0, 0.0, 1.0], "no force on any atom"),
    ):
        frames = store_of(forces, tmp_path)
        features = one_atom_frames(np.arange(3.0)[:, None], frames.hash)
        with pytest.raises(InputError, match=message):
            ForceWeightedFPS().select(features, 2, frames=frames, seed=0)
    with pytest.raises(InputError, match="labelled pool"):
        ForceWeightedFPS().select(features, 2, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FPS(pooling="max"), "selector.pooling=max"),
        (lambda: FPS(start="first"), "selector.start=first"),
        (lambda: FPS(variance=1.5), "selector.variance=1.5"),
        (lambda: EnvironmentFPS(start="first"), "selector.start=first"),
        (lambda: ForceWeightedFPS(power=-1), "selector.power=-1"),
        (lambda: ForceWeightedFPS(force="mean"), "selector.force=mean"),
    ],
)
def test_settings_out_of_range(make: Callable[[], FPS], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
