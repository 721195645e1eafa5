"""Flat histograms: bins filled evenly, the rarest first; mass densities; frames without a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.data.store import FrameStore
from msmlff.distill.features import Features
from msmlff.distill.histogram import FlatDensity, FlatEnergy
from msmlff.distill.selection import Selection
from msmlff.distill.selector import Selector
from msmlff.errors import InputError

MakeStore = Callable[[list[Configuration]], FrameStore]


@pytest.fixture
def store(tmp_path: Path) -> MakeStore:
    return lambda frames: FrameStore.build(frames, tmp_path)


def frame(energy: float, edge: float = 3.0, atoms: int = 2) -> Configuration:
    positions = np.arange(atoms)[:, None] * [0.9, 0.0, 0.0]
    return Configuration(
        numbers=np.full(atoms, 8),
        positions=positions,
        cell=np.eye(3) * edge,
        pbc=np.ones(3, dtype=bool),
        energy=energy * atoms,
    )


def select(selector: Selector, frames: FrameStore, count: int, **arguments: object) -> Selection:
    features = Features.blank(frames.num_atoms, frames.hash)
    return selector.select(features, count, frames=frames, seed=1, **arguments)  # type: ignore[arg-type]


# Energies per atom: 60 frames in bin 0, 6 in bin 1, 3 in bin 2, of three bins from 0 to 3.
ENERGIES = np.concatenate([np.linspace(0.0, 0.9, 60), np.linspace(1.1, 1.9, 6), [2.2, 2.5, 3.0]])


def test_bins_are_filled_evenly_from_the_rarest(store: MakeStore) -> None:
    frames = store([frame(e, atoms=1 + i % 3) for i, e in enumerate(ENERGIES)])
    selection = select(FlatEnergy(bins=3, tail=0.0), frames, 9)
    assert selection.columns["bin"].tolist() == [2, 1, 0] * 3
    np.testing.assert_allclose(selection.scores, ENERGIES[selection.ids])
    more = select(FlatEnergy(bins=3, tail=0.0), frames, 20)
    assert np.bincount(more.columns["bin"]).tolist() == [11, 6, 3]
    assert more.record["details"]["pool"] == [60, 6, 3]


def test_held_frames_count_in_their_bins(store: MakeStore) -> None:
    frames = store([frame(e) for e in ENERGIES])
    selection = select(FlatEnergy(bins=3, tail=0.0), frames, 6, reference=[66, 67, 68, 0, 1])
    assert np.bincount(selection.columns["bin"], minlength=3).tolist() == [2, 4, 0]


def test_an_outlier_does_not_stretch_the_bins(store: MakeStore) -> None:
    energies = [*np.linspace(0.0, 1.0, 200), 1e4]
    selection = select(FlatEnergy(bins=10), store([frame(e) for e in energies]), 100)
    assert selection.record["details"]["high"] < 1.1
    assert np.bincount(selection.columns["bin"]).tolist() == [10] * 10


def test_density_in_grams_per_cubic_centimetre(store: MakeStore) -> None:
    frames = store([frame(0.0, edge=edge) for edge in (3.0, 3.1, 4.0)])
    selection = select(FlatDensity(bins=3), frames, 3)
    expected = 2 * 15.999 * 1.66053906660 / np.array([3.0, 3.1, 4.0]) ** 3
    np.testing.assert_allclose(selection.scores, expected[selection.ids], rtol=1e-6)


def test_frames_without_a_value_are_named(store: MakeStore) -> None:
    good = [frame(0.1 * i) for i in range(4)]
    open_frame = replace(good[2], cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool), source="made:2")
    with pytest.raises(InputError, match=r"frame 2 \(made:2\) has no density"):
        select(FlatDensity(), store([*good[:2], open_frame, good[3]]), 2)
    unlabelled = replace(good[1], energy=float("nan"), source="made:1")
    with pytest.raises(InputError, match=r"frame 1 \(made:1\) has no energy"):
        select(FlatEnergy(), store([good[0], unlabelled, *good[2:]]), 2)


def test_wrong_parameters() -> None:
    with pytest.raises(InputError, match=r"selector\.bins=0"):
        FlatEnergy(bins=0)
    with pytest.raises(InputError, match=r"selector\.tail=0\.5"):
        FlatDensity(tail=0.5)
