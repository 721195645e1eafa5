"""Observables over several trajectories: means, errors over replicas, and what cannot be averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msmlff.analysis.observables_folder import (
    ObservablesFolder,
    describe,
    load_observables,
    save_observables,
)
from msmlff.analysis.observables_page import compared_words, summary_rows, write_observables_page
from msmlff.analysis.observe import OBSERVABLES, observe
from msmlff.analysis.observe_replicas import mean_errors, observe_replicas, volume_notes
from msmlff.analysis.observed import ObserveSettings, Subject
from msmlff.analysis.trajectory import Trajectory
from msmlff.errors import InputError

SETTINGS = ObserveSettings(rdf_window_fs=50.0, degrees=(4,))


def gas(seed: int, frames: int = 64, **changes: object) -> Trajectory:
    """16 atoms, 8 each of two elements, in random places of an 8 Å cell; 2 fs from frame to frame."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0.0, 8.0, (16, 3))
    steps = rng.normal(scale=0.1, size=(frames, 16, 3))
    whole = Trajectory(
        numbers=np.repeat([3, 9], 8),
        positions=start + np.cumsum(steps, axis=0),
        cell=np.broadcast_to(8.0 * np.eye(3), (frames, 3, 3)),
        pbc=np.ones(3, dtype=bool),
        interval_fs=2.0,
        velocities=steps / 2.0,
        source=f"gas {seed}",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def subjects(*trajectories: Trajectory, settings: ObserveSettings = SETTINGS) -> dict[str, Subject]:
    return {f"replica {k}": Subject(t, settings) for k, t in enumerate(trajectories)}


def test_one_trajectory_is_as_ever() -> None:
    one = subjects(gas(0))
    found, missing = observe_replicas(one)
    alone, without = observe(one["replica 0"])
    assert found.keys() == alone.keys()
    assert missing == without
    assert all(np.isnan(q.over_replicas) for o in found.values() for q in o.quantities.values())


def test_mean_and_error_over_replicas() -> None:
    """Against the plain average of what each gives by itself."""
    several = subjects(*(gas(seed) for seed in range(5)))
    found, _ = observe_replicas(several, ["temperature", "rdf", "msd", "diffusion"])
    each = [observe(s, ["temperature", "rdf", "msd", "diffusion"])[0] for s in several.values()]
    for name, key in (("temperature", "temperature"), ("diffusion", "D of Li")):
        values = np.array([one[name].quantities[key].value for one in each])
        errors = np.array([one[name].quantities[key].error for one in each])
        mean = found[name].quantities[key]
        assert mean.value == pytest.approx(values.mean())
        assert mean.over_replicas == pytest.approx(values.std(ddof=1) / np.sqrt(5))
        assert mean.error == pytest.approx(np.sqrt((errors**2).sum()) / 5)
        assert mean.unit == each[0][name].quantities[key].unit
    for name, key in (("rdf", "Li-F"), ("msd", "Li")):
        y = np.stack([one[name].curves[key].curve.y for one in each])
        curve = found[name].curves[key].curve
        np.testing.assert_allclose(curve.y, y.mean(axis=0))
        np.testing.assert_allclose(curve.error, y.std(axis=0, ddof=1) / np.sqrt(5))


def test_the_error_over_replicas_is_that_of_independent_means() -> None:
    """Means of independent runs scatter about the truth by their error: of 40 such averages two thirds."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(40):
        runs = [gas(0, temperature=300.0 + rng.normal(0, 20) + rng.normal(0, 1, 64)) for _ in range(8)]
        found = observe_replicas(subjects(*runs), ["temperature"])[0]["temperature"]
        mean = found.quantities["temperature"]
        inside += abs(mean.value - 300.0) < mean.over_replicas
        assert mean.error < 0.2 * mean.over_replicas  # blocks of a run do not see what runs differ by
    assert 17 <= inside <= 35


def test_replicas_of_different_length() -> None:
    """Curves go as far as all; one that ended early counts for stability alone, and a note says so."""
    several = subjects(gas(0), gas(1, frames=50), gas(2, frames=4))
    found, missing = observe_replicas(several)
    assert {"rdf", "msd", "vdos", "stability", "coordination"} <= set(found)
    assert set(missing) <= set(OBSERVABLES)
    assert "Without replica 2: it ended after 8 of 128 fs" in found["msd"].notes
    assert found["temperature"].curves["kinetic"].curve.x[-1] == 98.0
    alone = observe_replicas(subjects(gas(0), gas(1, frames=50)))[0]
    assert found["temperature"].quantities == alone["temperature"].quantities
    key = "bonds, mean ± 0.5 Å: stable for"
    assert found["stability"].quantities[key].value != alone["stability"].quantities[key].value
    assert not [note for note in found["stability"].notes if "ended after" in note]
    with pytest.raises(InputError, match="gas 0 have no energy"):
        observe_replicas(subjects(gas(0, frames=2), gas(1, frames=2)), ["drift"])


def test_the_share_that_survives() -> None:
    """Of five replicas two are lost, one of them before the first frame that is looked at."""
    gone = ("replica 3 left the physical range",)
    several = subjects(*(gas(seed) for seed in range(4)), settings=replace(SETTINGS, bond_mean=90.0))
    several["replica 3"] = replace(several["replica 3"], failures=gone)
    found = observe_replicas(several, ["stability", "density"], lost=["replica 9"])[0]
    key = "bonds, mean ± 90 Å: stable"
    share = found["stability"].quantities[key]
    assert share.value == pytest.approx(3 / 5)
    assert share.over_replicas == pytest.approx(np.sqrt(0.6 * 0.4 / 4))  # of a share, n - 1 in place of n
    assert found["stability"].quantities[f"{key} for"].value == pytest.approx(4 / 5 * 126.0)
    (note,) = [n for n in found["stability"].notes if n.startswith(f"{key}: ")]
    assert "3 of 5 replicas, a share between 0.15 and 0.95" in note  # Clopper, Pearson, by their table
    assert any("replica 9: The simulation failed before" in n for n in found["stability"].notes)
    assert found["density"].quantities["density"].over_replicas == 0.0
    one = {"replica 0": several["replica 0"]}
    alone = observe_replicas(one, ["stability"], lost=["replica 1"])[0]["stability"].quantities[key]
    assert alone.value == 0.5


def test_first_shells_are_those_of_all() -> None:
    """Coordination numbers of all replicas are counted to the same distance."""
    several = subjects(*(gas(seed) for seed in range(4)))
    found = observe_replicas(several, ["coordination"])[0]["coordination"]
    assert {key.partition(" within")[0] for key in found.quantities} <= {"Li-Li", "Li-F", "F-Li", "F-F"}
    assert len(found.quantities) <= 4
    assert all(len(named.marks) <= 1 for named in found.curves.values())
    assert not [note for note in found.notes if "replicas." in note]


def test_cells_of_different_size_have_a_common_g() -> None:
    grown = gas(1, cell=np.broadcast_to(8.4 * np.eye(3), (64, 3, 3)))
    several = subjects(gas(0), grown)
    assert observe_replicas(several, ["rdf"])[0]["rdf"].curves["all"].curve.x[-1] < 4.0
    (note,) = volume_notes(several)
    assert "go from 512 to 592.7 Å³" in note
    assert volume_notes(subjects(gas(0), gas(1))) == []


def test_histograms_are_zero_beyond_their_ends() -> None:
    def stress(gpa: float) -> np.ndarray:
        values = gpa + np.random.default_rng(1).normal(0, 1, 64)
        return -values[:, None, None] * np.eye(3) / 160.21766208

    several = subjects(*(gas(0, stress=stress(p), velocities=None) for p in (0.0, 20.0)))
    curves = observe_replicas(several, ["pressure"])[0]["pressure"].curves
    curve = curves["distribution, of the potential"].curve
    assert curve.x[0] < 0.0 < 20.0 < curve.x[-1]
    assert curve.y[len(curve.y) // 2] == 0.0
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(1.0, abs=0.25)


def test_other_atoms_have_no_mean() -> None:
    with pytest.raises(InputError, match=r"replica 1 holds other atoms .* than replica 0.*replica=K"):
        observe_replicas(subjects(gas(0), gas(1, numbers=np.repeat([3, 17], 8))))


def test_measures_against_a_reference() -> None:
    assert mean_errors([{"rdf_error": 1.0, "pressure_mae": 2.0}, {"rdf_error": 3.0}]) == {"rdf_error": 2.0}


def test_on_disk_and_on_the_page(tmp_path: Path) -> None:
    several = subjects(*(gas(seed) for seed in range(3)))
    found, missing = observe_replicas(several)
    about = describe(*(s.trajectory for s in several.values()))
    assert (about["frames"], about["replicas"]) == (192, [64, 64, 64])
    save_observables(
        ObservablesFolder(about, found, missing=missing, structures=gas(0).frames()[:1]), tmp_path
    )
    again = load_observables(tmp_path)
    assert again is not None
    assert again.found["temperature"].quantities == found["temperature"].quantities
    (row,) = [r for r in summary_rows(again.found, {}) if r[1] == "temperature"]
    assert row[3].startswith("± ")
    page = write_observables_page(tmp_path, "msmlff evaluate").read_text()
    assert "Mean over 3 replicas, 192 frames of 16 atoms" in page
    assert "± over replicas" in page
    assert "standard errors over replicas" in page


def test_over_what_time_a_reference_is_compared() -> None:
    """Said where the two differ in length or interval, and of what the errors are."""
    about, other = describe(gas(0), gas(1, frames=32)), describe(gas(2, frames=101, interval_fs=10.0))
    errors = {"rdf_error": 1.0}
    content = ObservablesFolder(
        about, {}, about_reference=other | {"compared_fs": [60.0, 120.0]}, errors=errors
    )
    assert compared_words(content) == (
        "Numbers and curves are those of the whole of each: 0.0620 to 0.126 ps of a replica, a frame "
        "every 2.00 fs; 1.00 ps of the reference, a frame every 10.0 fs. Errors against the reference: the "
        "first 0.0600 to 0.120 ps of both."
    )
    assert compared_words(replace(content, errors={})).endswith("every 10.0 fs.")
    alike = describe(gas(0))
    assert compared_words(ObservablesFolder(alike, {}, about_reference=alike)) == ""
    assert compared_words(ObservablesFolder(alike, {})) == ""
    unknown = describe(gas(0, interval_fs=None))
    assert compared_words(ObservablesFolder(alike, {}, about_reference=unknown)) == ""
