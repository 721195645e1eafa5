"""The door: each kind of defect is found, named by file and frame, and let through only on request."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.units import Bohr, Hartree, fs, kB

from msmlff.data.configuration import Configuration
from msmlff.data.door import Door, DoorReport, check_shared
from msmlff.data.fingerprint import TOLERANCE, same_geometry
from msmlff.data.formats import from_ase, read_frames
from msmlff.data.label_checks import check_forces_against_engine
from msmlff.data.store import FrameStore
from msmlff.errors import InputError


@pytest.fixture(scope="module")
def trajectory() -> list[Configuration]:
    """Forty frames of 8 copper atoms at 600 K, 2 fs apart, EMT labels."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    atoms.set_momenta(np.random.default_rng(0).normal(0, np.sqrt(63.5 * kB * 600), (8, 3)))
    frames = []

    def keep() -> None:
        atoms.get_forces()
        frames.append(replace(from_ase(atoms), source=f"md.xyz:{len(frames)}"))

    md = VelocityVerlet(atoms, 2 * fs)
    md.attach(keep)
    md.run(39)
    return frames


def _nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[0, 0] = np.nan
    return array


def _moved(frame: Configuration, distance: float) -> Configuration:
    positions = frame.positions.copy()
    positions[1] = positions[0] + [distance, 0, 0]
    return replace(frame, positions=positions)


DEFECTS = {
    "shape": lambda f: replace(f, forces=f.forces[:-1]),
    "nan_geometry": lambda f: replace(f, positions=_nan(f.positions)),
    "zero_volume": lambda f: replace(f, cell=f.cell[[0, 0, 2]]),
    "unknown_species": lambda f: replace(f, numbers=np.full(8, 30)),
    "overlap": lambda f: _moved(f, 0.4),
    "missing_label": lambda f: replace(f, energy=float("nan")),
    "nan_label": lambda f: replace(f, forces=_nan(f.forces)),
    "large_force": lambda f: replace(f, forces=f.forces * 1e4),
    "duplicate": lambda f: replace(f, positions=f.positions + f.cell[0] + 0.3, energy=1.0),
}


def _spoilt(trajectory: list[Configuration], defect: str) -> list[Configuration]:
    victim = trajectory[2 if defect == "duplicate" else 3]
    return [*trajectory[:3], replace(DEFECTS[defect](victim), source="bad.xyz:7"), *trajectory[4:6]]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_an_error_that_names_file_and_frame(defect, trajectory) -> None:
    door = Door(atomic_numbers=(29,))
    with pytest.raises(InputError, match=rf"bad\.xyz:7: .*put {defect} into pool\."):
        door.check(_spoilt(trajectory, defect))


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_can_be_dropped_and_is_counted(defect, trajectory) -> None:
    report = DoorReport()
    door = Door(atomic_numbers=(29,), drop=(defect,))
    with pytest.warns(UserWarning, match=rf"{defect} \(1\): bad\.xyz:7"):
        kept = list(door.watch(_spoilt(trajectory, defect), report))
    assert [f.source for f in kept] == [f"md.xyz:{i}" for i in (0, 1, 2, 4, 5)]
    assert (report.frames, report.kept, report.counts[defect]) == (6, 5, 1)
    assert f"5 of 6 frames kept; {defect} 1" in report.summary
    assert DoorReport.from_dict(report.to_dict()) == report


@pytest.mark.parametrize("defect", ["overlap", "missing_label", "nan_label", "large_force", "duplicate"])
def test_a_defect_can_be_allowed_and_is_counted(defect, trajectory) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Door(atomic_numbers=(29,), allow=(defect,)).check(_spoilt(trajectory, defect))
    assert (report.frames, report.kept, report.counts[defect]) == (6, 6, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": ("nonsense",)}, "no defect nonsense"),
        ({"allow": ("nan_geometry",)}, "write drop instead"),
        ({"drop": ("force_sign",)}, "write allow, not drop"),
        ({"require": ("virial",)}, "energy, forces, stress"),
    ],
)
def test_senseless_options_are_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        Door(**options)


def test_good_frames_pass_in_silence(trajectory) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = Door(require=("energy", "forces")).check(trajectory)
    assert report.kept == report.frames == 40
    assert report.counts == {}


def test_isolated_atoms_pass_twice_and_without_forces() -> None:
    atom = Configuration(np.array([1]), np.zeros((1, 3)), energy=-13.6)
    report = Door(require=("energy", "forces", "stress")).check([atom, atom])
    assert report.kept == 2
    with pytest.raises(InputError, match="frame 0: the energy is missing"):
        Door().check([replace(atom, energy=float("nan"))])


def test_labels_of_nan_alone_are_absent_ones(trajectory) -> None:
    masked = replace(trajectory[0], forces=np.full((8, 3), np.nan), stress=np.full((3, 3), np.nan))
    assert Door().check([masked]).counts == {}
    for name in ("forces", "stress"):
        with pytest.raises(InputError, match=f"the {name} is missing or NaN"):
            Door(require=("energy", name)).check([masked])
    assert from_ase(masked.to_ase()).forces is None
    assert from_ase(masked.to_ase()).stress is None


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_stress_is_known_for_volumes_alone(pbc, trajectory) -> None:
    slab = replace(trajectory[0], pbc=np.array(pbc), stress=np.eye(3))
    report = DoorReport()
    with pytest.warns(UserWarning, match=r"stress_without_volume \(1\): md\.xyz:0"):
        (kept,) = Door().watch([slab], report)
    assert kept.stress is None
    assert report.counts == {"stress_without_volume": 1}
    with pytest.raises(InputError, match=r"md\.xyz:0: the stress is missing"):
        Door(require=("energy", "stress")).check([slab])
    bulk_frame = replace(slab, pbc=np.ones(3, bool))
    assert next(Door().watch([bulk_frame], DoorReport())).stress is not None


def test_dense_hydrogen_passes_and_its_known_duplicate_is_found(reference_data) -> None:
    path = reference_data / "dense_hydrogen_pbe" / "test.extxyz.gz"
    with pytest.raises(InputError, match=r"test\.extxyz\.gz:48: the same geometry as .*:47"):
        Door().check(read_frames(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Door(require=("energy", "forces"), allow=("duplicate",)).check(read_frames(path))
    assert report.counts == {"duplicate": 1}


def test_overlap_scales_with_the_radii_unless_given() -> None:
    pair = Configuration(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.5]]), energy=0.0)
    assert Door().check([pair]).kept == 1
    with pytest.raises(InputError, match=r"H0 and H1 are 0\.500 Å apart"):
        Door(min_distance=0.6).check([pair])
    with pytest.raises(InputError, match=r"H0 and Pb1 are 0\.500 Å"):
        Door().check([replace(pair, numbers=np.array([1, 82]))])
    crystal = replace(
        pair, positions=np.array([[0, 0, 0.1], [2, 2, 3.9]]), cell=np.eye(3) * 4, pbc=np.ones(3, bool)
    )
    assert Door().check([crystal]).kept == 1
    near = replace(crystal, positions=np.array([[0, 0, 0.1], [0, 0, 3.9]]))
    with pytest.raises(InputError, match=r"0\.200 Å"):
        Door().check([near])


def _relabelled(frames, energy: float = 1.0, forces: float = 1.0) -> list[Configuration]:
    return [replace(f, energy=f.energy * energy, forces=f.forces * forces) for f in frames]


@pytest.mark.parametrize(
    ("energy", "forces", "defect", "message"),
    [
        (1, -1, "force_sign", "wrong sign"),
        (-1, 1, "force_sign", "wrong sign"),
        (1 / Hartree, 1, "force_units", "energy in hartree"),
        (1, Bohr / Hartree, "force_units", "forces in hartree/bohr"),
        (1, Bohr, "force_units", "forces in eV/bohr"),
        (23.06, 1, "force_units", "energy in kcal/mol"),
        (3.0, 1, "force_units", "factor of 3"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_trajectory_betrays_wrong_signs_and_units(energy, forces, defect, message, trajectory) -> None:
    wrong = _relabelled(trajectory, energy, forces)
    with pytest.raises(InputError, match=rf"md\.xyz:1 and .*{message}.*{defect}"):
        Door().check(wrong)
    assert Door(allow=(defect,)).check(wrong).counts[defect] == 1


def test_unrelated_frames_are_not_judged_by_their_energy_differences(trajectory) -> None:
    scattered = _relabelled(trajectory[::7], forces=-1.0)
    report = Door().check(scattered)
    assert report.kept == len(scattered)
    assert "forces against energies not checked: 5 steps" in report.summary
    assert Door().check(trajectory[::7]).not_checked.keys() == {"forces against energies"}
    assert Door().check(trajectory).not_checked == {}
    flat = Door(allow=("duplicate",)).check([replace(f, energy=0.0) for f in trajectory])
    assert "the same in all frames" in flat.not_checked["forces against energies"]


def test_wrapping_does_not_fool_the_trajectory_check(trajectory) -> None:
    rng = np.random.default_rng(0)
    wrapped = [replace(f, positions=f.positions + rng.integers(-2, 3, (8, 3)) @ f.cell) for f in trajectory]
    assert Door().check(wrapped).counts == {}
    with pytest.raises(InputError, match="wrong sign"):
        Door().check(_relabelled(wrapped, forces=-1.0))


@pytest.mark.parametrize("factor", [1e-4, 80.0])
def test_implausible_sizes_and_net_forces_are_warnings(factor, trajectory) -> None:
    few = _relabelled(trajectory[:5], forces=factor)
    with pytest.warns(UserWarning, match="check the units"):
        report = Door(max_force=1e9).check(few)
    assert report.counts == {"force_magnitude": 1}
    pulled = [replace(f, forces=f.forces + np.array([2.0, 0, 0])) for f in trajectory[:3]]
    with pytest.warns(UserWarning, match=r"md\.xyz:0: the mean force is 2 eV/Å"):
        assert Door().check(pulled).counts == {"net_force": 3}


def test_the_engine_agrees_with_its_own_labels(trajectory) -> None:
    checks = check_forces_against_engine(trajectory, EMT(), n=3)
    assert [c.source for c in checks] == ["md.xyz:0", "md.xyz:20", "md.xyz:39"]
    for check in checks:
        assert check.labelled == pytest.approx(check.differences, abs=1e-4)


@pytest.mark.parametrize(
    ("factor", "message"),
    [(-1, "wrong sign"), (Bohr / Hartree, "forces in hartree/bohr"), (1.3, "differ by a factor of 0.769")],
)
def test_the_engine_finds_forces_that_are_not_its_own(factor, message, trajectory) -> None:
    with pytest.raises(InputError, match=rf"md\.xyz:\d+: .*{message}"):
        check_forces_against_engine(_relabelled(trajectory, forces=factor), EMT())


def test_the_engine_needs_forces() -> None:
    with pytest.raises(InputError, match="no frame has forces"):
        check_forces_against_engine([from_ase(molecule("H2O"))], EMT())


def _written(frame: Configuration, decimals: int) -> Configuration:
    """The frame as a file gives it back."""
    return replace(
        frame,
        positions=np.round(frame.positions, decimals),
        cell=np.round(frame.cell, decimals),
        source="copy",
    )


@pytest.mark.parametrize("decimals", [5, 6, 12])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_copies_are_found_however_they_were_written(decimals, pbc, trajectory, tmp_path) -> None:
    """Rounded, moved as a whole and unwrapped: each copy has its own digits."""
    rng = np.random.default_rng(decimals)
    pbc = np.array(pbc)
    skew = np.array([[7.3, 0.2, 0.1], [-2.1, 4.1, 0], [0.7, 0.4, 4.3]])
    box = skew if pbc.all() else trajectory[0].cell
    frames = [replace(f, cell=box, pbc=pbc) for f in trajectory]
    steps = rng.integers(-3, 4, (len(frames), 8, 3)) * pbc
    copies = [
        _written(replace(f, positions=f.positions + rng.normal(size=3) + step @ box), decimals)
        for f, step in zip(frames, steps, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Door(drop=("duplicate",)).check([*frames, *copies])
        stores = {"train": FrameStore.build(frames, tmp_path), "test": FrameStore.build(copies, tmp_path)}
        assert check_shared(stores, allow=("shared",)) == {"train-test": len(copies)}
    assert report.counts["duplicate"] == len(copies)


def test_geometries_are_the_same_within_the_tolerance_alone(trajectory) -> None:
    frame = replace(trajectory[0], stress=None)
    moved = frame.positions.copy()
    moved[3, 1] += 1.0
    shift = np.random.default_rng(0).integers(-3, 4, (8, 3)) @ frame.cell
    swapped = frame.positions[[1, 0, *range(2, 8)]]

    def nudged(by: float) -> Configuration:
        return replace(frame, positions=frame.positions + by * (moved - frame.positions))

    same = [
        replace(frame, positions=frame.positions + 0.123),
        replace(frame, positions=frame.positions + shift),
        replace(frame, energy=0.0, forces=None, group="x", source="y"),
        nudged(0.9 * TOLERANCE),
    ]
    other = [
        nudged(1.1 * TOLERANCE),
        replace(frame, positions=swapped),
        replace(frame, cell=frame.cell * 1.001),
        replace(frame, pbc=np.array([True, True, False])),
        replace(frame, numbers=np.array([28, *frame.numbers[1:]])),
    ]
    assert [same_geometry(frame, f) for f in same] == [True] * 4
    assert [same_geometry(frame, f) for f in other] == [False] * 5
    assert Door(allow=("duplicate",)).check([frame, *other]).counts == {}


def test_frames_shared_between_parts(trajectory, tmp_path) -> None:
    train, test = trajectory[:10], [*trajectory[20:25], replace(trajectory[4], source="test.xyz:5")]
    assert check_shared({"train": train, "test": test[:-1]}) == {}
    with pytest.raises(InputError, match=r"test\.xyz:5 \(test\) is also in train \(train frame 4\)"):
        check_shared({"train": train, "test": test})
    stores = {name: FrameStore.build(part, tmp_path) for name, part in (("train", train), ("test", test))}
    with pytest.warns(UserWarning, match="1 frames are shared"):
        assert check_shared(stores, allow=("shared",)) == {"train-test": 1}
