"""E0s from isolated atoms, given values and least squares; the statistics that follow."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.data.reference_energies import reference_energies
from msmlff.data.statistics import Statistics, dataset_statistics
from msmlff.data.store import FrameStore
from msmlff.errors import InputError

TRUE = {1: -13.6, 6: -1029.0, 8: -2041.0}


def _frame(numbers: list[int], energy: float, **extra) -> Configuration:
    positions = np.arange(3 * len(numbers)).reshape(-1, 3) * 0.9
    return Configuration(np.array(numbers), positions, energy=energy, **extra)


def _atoms() -> list[Configuration]:
    return [_frame([z], e, source=f"atom:{z}") for z, e in TRUE.items()]


def _molecules(noise: float = 0.0, seed: int = 0) -> list[Configuration]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(40):
        numbers = rng.choice([1, 6, 8], rng.integers(2, 12)).tolist()
        frames.append(_frame(numbers, sum(TRUE[z] for z in numbers) + noise * rng.normal()))
    return frames


def _store(frames, folder) -> FrameStore:
    return FrameStore.build(frames, folder)


def test_isolated_atoms_are_found_and_named(tmp_path) -> None:
    found = reference_energies(_store([*_atoms(), *_molecules(0.5)], tmp_path))
    assert found.source == "isolated atoms"
    assert found.values == TRUE
    assert found.isolated_ids == (0, 1, 2)
    assert found.by_symbol() == {"H": -13.6, "C": -1029.0, "O": -2041.0}
    assert found.sum(np.array([1, 1, 8])) == pytest.approx(-2041.0 - 27.2)
    assert 0 < found.residual_rmse < 0.5


def test_isolated_atoms_kept_apart_serve_a_store_without_them(tmp_path) -> None:
    atoms, store = _store(_atoms(), tmp_path), _store(_molecules(), tmp_path)
    found = reference_energies(store, "isolated", isolated=atoms)
    assert found.values == TRUE
    assert found.isolated_ids == ()
    assert found.residual_rmse == pytest.approx(0, abs=1e-9)


def test_least_squares_agrees_with_numpy(tmp_path) -> None:
    frames = _molecules(noise=0.3)
    found = reference_energies(_store(frames, tmp_path), "least_squares")
    n = np.array([len(f) for f in frames])
    counts = np.array([[(f.numbers == z).sum() for z in TRUE] for f in frames])
    x, *_ = np.linalg.lstsq(counts / n[:, None], np.array([f.energy for f in frames]) / n)
    assert found.source == "least squares"
    np.testing.assert_allclose(list(found.values.values()), x, rtol=1e-12)
    residual = (np.array([f.energy for f in frames]) - counts @ x) / n
    assert found.residual_rmse == pytest.approx(np.sqrt(np.mean(residual**2)))
    assert found.residual_mean == pytest.approx(residual.mean())


def test_auto_without_atoms_of_every_element_fits(tmp_path) -> None:
    found = reference_energies(_store([*_atoms()[:1], *_molecules()], tmp_path), "auto")
    assert found.source == "least squares"
    np.testing.assert_allclose(list(found.values.values()), list(TRUE.values()), rtol=1e-9)


def test_a_constant_composition_warns_and_still_fits_the_sum(tmp_path) -> None:
    frames = [_frame([6, 1] * k, k * -100.0) for k in range(1, 6)]
    with pytest.warns(UserWarning, match="determine 1 combinations of the 2 reference energies of H, C"):
        found = reference_energies(_store(frames, tmp_path), "least_squares")
    assert found.source == "least squares, minimum norm"
    assert found.values[1] == pytest.approx(-50.0)
    assert found.values[6] == pytest.approx(-50.0)
    assert found.residual_rmse == pytest.approx(0, abs=1e-9)


def test_unlabelled_frames_do_not_enter_the_fit(tmp_path) -> None:
    frames = [*_molecules(), _frame([1, 8], float("nan"))]
    found = reference_energies(_store(frames, tmp_path), "least_squares")
    np.testing.assert_allclose(list(found.values.values()), list(TRUE.values()), rtol=1e-9)


@pytest.mark.parametrize(
    "given", [{"H": -13.6, "C": -1029, "O": -2041}, {1: -13.6, "6": -1029, 8: -2041, 7: 0.0}]
)
def test_given_values(given, tmp_path) -> None:
    found = reference_energies(_store(_molecules(), tmp_path), given)
    assert found.values == TRUE
    assert found.source == "given"


def test_what_cannot_be_answered_is_said(tmp_path) -> None:
    store = _store(_molecules(), tmp_path)
    with pytest.raises(InputError, match="for C, O"):
        reference_energies(store, {"H": -13.6})
    with pytest.raises(InputError, match="'Xy' is no chemical symbol"):
        reference_energies(store, {"Xy": 1.0})
    with pytest.raises(InputError, match=r"isolated atoms.*for H, C, O"):
        reference_energies(store, "isolated")
    with pytest.raises(InputError, match="for N"):
        reference_energies(store, "least_squares", must_cover=(7,))
    with pytest.raises(InputError, match="'mean' is unknown"):
        reference_energies(store, "mean")
    with pytest.raises(InputError, match="no frame has an energy"):
        reference_energies(_store([_frame([1, 1], float("nan"))], tmp_path), "least_squares")
    twice = [*_atoms(), _frame([1], -13.0, source="second:0")]
    with pytest.raises(InputError, match=r"second:0: the isolated H atom has -13\.000000 eV, another"):
        reference_energies(_store(twice, tmp_path))


def test_a_periodic_single_atom_is_no_isolated_atom(tmp_path) -> None:
    crystal = _frame([1], -15.0, cell=np.eye(3) * 2.0, pbc=np.ones(3, bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reference_energies(_store([crystal, _frame([1, 1], -30.0)], tmp_path))
    assert found.source == "least squares"
    assert found.isolated_ids == ()


def test_statistics_of_known_frames() -> None:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(5):
        n = int(rng.integers(3, 9))
        frames.append(
            Configuration(
                rng.choice([1, 8], n),
                rng.random((n, 3)) * 4,
                energy=float(n * 2.0),
                forces=rng.normal(0, 3, (n, 3)),
            )
        )
    frames.append(Configuration(np.array([1, 1]), np.eye(3)[:2]))  # no labels
    lists = [neighbor_list(f.positions, f.cell, f.pbc, 4.0) for f in frames]
    found = dataset_statistics(frames, lists, (2.0, 4.0), {1: 0.5, 8: -1.0})
    atoms = sum(len(f) for f in frames)
    for cutoff, mean in zip((2.0, 4.0), found.neighbors, strict=True):
        pairs = sum(len(neighbor_list(f.positions, f.cell, f.pbc, cutoff)) for f in frames)
        assert mean == pytest.approx(pairs / atoms)
    assert found.shift == pytest.approx((1.5, 3.0))  # 2 eV an atom minus the E0s
    forces = np.concatenate([f.forces for f in frames[:-1]])
    assert found.scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert Statistics.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_statistics_without_labels_or_neighbours_are_usable() -> None:
    frame = Configuration(np.array([1]), np.zeros((1, 3)))
    found = dataset_statistics(
        [frame], [neighbor_list(frame.positions, frame.cell, frame.pbc, 3.0)], (3.0,), {1: -1.0}
    )
    assert found == Statistics((0.0,), (0.0,), 1.0)
