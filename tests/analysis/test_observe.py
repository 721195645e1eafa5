"""The observables by name, on disk and as a page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa, kB

from msmlff.analysis.observables_folder import ObservablesFolder, describe, load_observables, save_observables
from msmlff.analysis.observables_page import with_error, write_observables_page
from msmlff.analysis.observe import OBSERVABLES, check_names, observe
from msmlff.analysis.observe_state import kinetic_temperature
from msmlff.analysis.observed import ObserveSettings, Quantity, Subject
from msmlff.analysis.report import write_report
from msmlff.analysis.trajectory import Trajectory, temperatures
from msmlff.errors import InputError


def salt(frames: int = 120, seed: int = 0, **changes) -> Trajectory:
    """A crystal of sodium chloride whose atoms vibrate, with made-up velocities, energies and stresses."""
    rng = np.random.default_rng(seed)
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    time = 0.004 * np.arange(frames)[:, None, None]
    omega = 2 * np.pi * rng.uniform(2, 8, size=(8, 3))
    phase = rng.uniform(0, 2 * np.pi, size=(8, 3))
    content = {
        "numbers": crystal.numbers,
        "positions": crystal.positions + 0.1 * np.sin(omega * time + phase),
        "cell": np.broadcast_to(crystal.cell.array, (frames, 3, 3)),
        "pbc": np.ones(3, bool),
        "interval_fs": 4.0,
        "velocities": 1e-4 * omega * np.cos(omega * time + phase),
        "energy": -50 + 0.1 * rng.normal(size=frames),
        "stress": -rng.normal(2.0, 0.1, size=frames)[:, None, None] * GPa * np.eye(3),
        "source": "salt.extxyz",
    }
    return Trajectory(**{**content, **changes})


def subject(trajectory: Trajectory | None = None, **more) -> Subject:
    settings = more.pop("settings", ObserveSettings(rdf_window_fs=100.0))
    return Subject(salt() if trajectory is None else trajectory, settings, **more)


def test_everything_that_a_trajectory_allows():
    found, missing = observe(subject())
    assert set(found) | set(missing) == set(OBSERVABLES)
    assert set(missing) == {"molecular_fraction", "equation_of_state"}
    assert "other elements than hydrogen" in missing["molecular_fraction"]
    assert found["pressure"].quantities["pressure of the potential"].value == pytest.approx(2.0, abs=0.05)
    assert found["density"].quantities["density"].value == pytest.approx(2.16, abs=0.02)
    coordination = found["coordination"].quantities
    (name,) = [n for n in coordination if n.startswith("Na-Cl")]
    assert coordination[name].value == pytest.approx(6, abs=0.1)
    assert set(found["rdf"].curves) == {"all", "Na-Na", "Na-Cl", "Cl-Cl"}
    assert any("do not diffuse" in note for note in found["diffusion"].notes)


def test_what_is_asked_for_must_be_possible():
    bare = salt(velocities=None, stress=None)
    for name, message in {
        "vacf": "holds no velocities",
        "temperature": "holds no velocities",
        "pressure": "have no stress",
        "molecular_fraction": "other elements",
        "rdfs": "there is no observable 'rdfs'; .*rdf, adf",
    }.items():
        with pytest.raises(InputError, match=message):
            observe(subject(bare), [name])
    with pytest.raises(InputError, match=r"salt\.extxyz holds 1 frame"):
        observe(subject(salt(1)), ["msd"])
    with pytest.raises(InputError, match="not periodic"):
        observe(subject(salt(pbc=np.zeros(3, bool))), ["rdf"])
    with pytest.raises(InputError, match="no observables are named"):
        observe(subject(), [])


def test_settings_that_make_no_sense_are_refused():
    for change in ({"bins": 0}, {"blocks": 1}, {"cutoff": -1.0}, {"temperature": -3.0}):
        (key,) = change
        with pytest.raises(InputError, match=rf"settings\.{key}="):
            ObserveSettings(**change)


def test_finite_size_correction_of_diffusion():
    plain = observe(subject(), ["diffusion"])[0]["diffusion"].quantities
    settings = ObserveSettings(viscosity=1.0, temperature=300.0)
    corrected = observe(subject(settings=settings), ["diffusion"])[0]["diffusion"].quantities
    added = corrected["D of Na, infinite cell"].value - plain["D of Na"].value
    # 2.837297 kB 300 K / (6 π 1 mPa s 5.64 Å)
    assert added == pytest.approx(1.1054, rel=1e-3)
    skewed = salt(cell=np.broadcast_to(np.diag([5.64, 5.64, 9.0]), (120, 3, 3)))
    with pytest.raises(InputError, match="cubic"):
        observe(subject(skewed, settings=settings), ["diffusion"])


def test_pressure_and_drift_come_from_the_table_of_a_simulation():
    rows = {
        "time_fs": 4.0 * np.arange(50),
        "pressure_GPa": np.full(50, 7.0),
        "kinetic_eV": np.full(50, 1.5),
        "volume_A3": np.full(50, 5.64**3),
        "conserved_eV": -8.0 + 8e-6 * 4.0 * np.arange(50),
    }
    whole = subject(salt(stress=None), thermo=rows)
    found = observe(whole, ["pressure", "drift"])[0]
    pressures = found["pressure"].quantities
    assert pressures["pressure"].value == 7.0
    # 2/3 of 1.5 eV in 179.4 Å³: 0.893 GPa
    assert pressures["pressure of the potential"].value == pytest.approx(7.0 - 0.89306, abs=1e-4)
    hot = ObserveSettings(temperature=1000.0)
    given = observe(subject(salt(stress=None), thermo=rows, settings=hot), ["pressure"])[0]["pressure"]
    ideal = 8 * kB * 1000.0 / 5.64**3 / GPa
    assert given.quantities["pressure"].value == pytest.approx(7.0 - 0.89306 + ideal, abs=1e-4)
    # the frames are more than the rows, or fewer
    fewer = {name: values[:30] for name, values in rows.items()}
    for frames, expected in ((50, 2.0), (20, 7.0)):
        both = observe(subject(salt(frames), thermo=fewer), ["pressure"])[0]["pressure"].quantities
        away = 0.89306 if expected == 7.0 else 0.0
        assert both["pressure of the potential"].value == pytest.approx(expected - away, abs=0.1)
    assert found["drift"].quantities["drift"].value == pytest.approx(1.0, rel=1e-6)


def test_pressures_of_one_name_are_of_one_quantity():
    """Without a temperature there is no "pressure"; with that of the other side there is, and a note."""
    bare = salt(velocities=None)
    alone = observe(subject(bare), ["pressure"])[0]["pressure"]
    assert list(alone.quantities) == ["pressure of the potential"]
    assert list(alone.curves) == ["distribution, of the potential"]
    assert "settings.temperature" in alone.notes[0]
    lent = observe(subject(bare, lent_temperature=1000.0), ["pressure"])[0]["pressure"]
    ideal = lent.quantities["pressure"].value - lent.quantities["pressure of the potential"].value
    assert ideal == pytest.approx(8 * kB * 1000.0 / 5.64**3 / GPa)
    assert "what it is compared with, at 1000.0 K" in lent.notes[0]
    assert list(lent.curves) == ["distribution"]
    own = observe(subject(lent_temperature=1000.0), ["pressure"])[0]["pressure"]  # it has velocities
    assert own.quantities == observe(subject(), ["pressure"])[0]["pressure"].quantities
    stored = observe(subject(salt(velocities=None, temperature=np.full(120, 500.0))), ["pressure"])[0]
    assert stored["pressure"].quantities["pressure"].value - 2.0 == pytest.approx(0.5 * ideal, abs=0.05)
    assert stored["pressure"].notes == ()
    assert kinetic_temperature(subject(bare)) is None
    assert kinetic_temperature(subject()) == pytest.approx(temperatures(salt()).mean())


def test_a_run_that_the_engine_stopped_has_not_survived():
    """By any definition that applies, however short it is and whatever its frames show."""
    whole = observe(subject(), ["stability"])[0]["stability"].quantities
    names = [name.removesuffix(": stable") for name in whole if name.endswith(": stable")]
    assert len(names) == 3
    assert all(whole[f"{name}: stable"].value == 1 for name in names)
    stopped = ("replica 0 left the physical range at step 9",)
    for frames in (120, 12, 1):  # as long as the other; less than a window of g; no second frame
        short = salt(frames, interval_fs=None if frames == 1 else 4.0)
        found = observe(subject(short, failures=stopped), ["stability"])[0]["stability"]
        for name in names:
            assert found.quantities[f"{name}: stable"].value == 0
            assert found.quantities[f"{name}: stable for"].value == 4.0 * (frames - 1)
        assert found.notes[0] == f"The simulation failed: {stopped[0]}"
        assert f"{names[2]}: largest" in found.quantities or frames < 120
    with pytest.raises(InputError, match="how far apart"):
        observe(subject(salt(1, interval_fs=None)), ["stability"])
    burst = salt()
    burst.positions[60:, 0] += 1.0
    found = observe(subject(burst), ["stability"])[0]["stability"].quantities
    assert found[f"{names[0]}: stable"].value == 0
    assert found[f"{names[0]}: stable for"].value == 240.0


def test_what_is_of_a_crystal_is_pointed_to():
    for name, there in (("elastic", "elastic"), ("phonons", "phonons"), ("elastic_constants", "elastic")):
        with pytest.raises(InputError, match=rf"msmlff relax model=RUN .*properties=\[{there}\]"):
            check_names([name])


def test_the_temperature_is_that_of_the_simulation():
    """With its own degrees of freedom; without one of its own, of 3 an atom, which a note says."""
    stored = 300.0 + np.arange(120.0)
    found = observe(subject(salt(temperature=stored)[60:]), ["temperature"])[0]["temperature"]
    assert found.quantities["temperature"].value == pytest.approx(stored[60:].mean())
    assert found.notes == ()
    bare = observe(subject(salt(velocities=None, temperature=stored)), ["temperature"])[0]["temperature"]
    assert bare.quantities["temperature"].value == pytest.approx(stored.mean())
    kinetic = observe(subject(), ["temperature"])[0]["temperature"]
    assert kinetic.quantities["temperature"].value == pytest.approx(temperatures(salt()).mean())
    assert "3 degrees of freedom an atom" in kinetic.notes[0]
    pressures = [
        observe(subject(salt(temperature=kelvin)), ["pressure"])[0]["pressure"].quantities["pressure"].value
        for kelvin in (None, stored)
    ]
    assert pressures[0] == pressures[1]  # its ideal part is that of all atoms' motion


def test_steps_that_may_be_folded_are_noted():
    far = salt()
    wide = np.where(np.arange(8)[None, :, None] == 0, 2.5 * (np.arange(120) % 2)[:, None, None], 0.0)
    far = replace(far, positions=far.positions + wide)
    for name in ("msd", "diffusion"):
        assert "of a lattice vector" in observe(subject(far), [name])[0][name].notes[0]
        assert not any("of a lattice vector" in n for n in observe(subject(), [name])[0][name].notes)
        marked = observe(subject(replace(far, continuous=True)), [name])[0][name]
        assert not any("of a lattice vector" in n for n in marked.notes)


def test_an_equation_of_state_of_moving_atoms_must_be_asked_for():
    scale = np.linspace(0.95, 1.05, 11)[:, None, None]
    cells = 5.64 * scale * np.eye(3)
    energy = 8 * (scale[:, 0, 0] - 1.0) ** 2 * 50 - 30.0
    rest = {"velocities": None, "interval_fs": None, "stress": None, "energy": energy, "cell": cells}
    still = salt(11, **rest)
    found = observe(subject(still))[0]["equation_of_state"]
    assert found.notes == ("Energies as the frames have them: relaxed, or all at rest.",)
    for moving in (replace(still, interval_fs=4.0), replace(still, velocities=salt(11).velocities)):
        found, missing = observe(subject(moving))
        assert "equation_of_state" not in found
        assert "write observables=[equation_of_state]" in missing["equation_of_state"]
        named = observe(subject(moving), ["equation_of_state"])[0]["equation_of_state"]
        assert "moving atoms" in named.notes[0]


@pytest.fixture
def folder(tmp_path):
    t = salt()
    settings = ObserveSettings(rdf_window_fs=100.0)
    found, missing = observe(Subject(t, settings))
    other, _ = observe(Subject(salt(seed=1), settings), ["rdf", "density"])
    labelled = [replace(t.frames()[i], info={"label": label}) for label, i in (("first", 0), ("last", -1))]
    content = ObservablesFolder(
        describe(t), found, other, describe(salt(seed=1)), {"rdf_error": 12.5}, missing, {}, labelled
    )
    save_observables(content, tmp_path)
    return tmp_path


def test_what_is_written_is_read(folder):
    content = load_observables(folder)
    found, _ = observe(subject())
    assert list(content.found) == list(found)
    for name, observed in found.items():
        again = content.found[name]
        assert list(again.quantities) == list(observed.quantities)
        for label, quantity in observed.quantities.items():
            assert again.quantities[label].value == pytest.approx(quantity.value, rel=1e-12, nan_ok=True)
        for label, named in observed.curves.items():
            np.testing.assert_allclose(again.curves[label].curve.y, named.curve.y, rtol=1e-8, atol=1e-12)
            assert again.curves[label].x_title == named.x_title
    assert set(content.reference) == {"rdf", "density"}
    assert content.reference["rdf"].curves["Na-Cl"].curve.y.max() > 1
    heading = (folder / "observables" / "rdf.csv").read_text().splitlines()[0]
    assert heading == "of,curve,r / Å,g(r),error"
    assert "NaN" not in (folder / "observables.json").read_text()


def test_curves_of_an_earlier_evaluation_go(folder):
    found, _ = observe(subject(), ["density"])
    save_observables(ObservablesFolder(describe(salt()), found, structures=salt().frames()[:1]), folder)
    assert [p.name for p in (folder / "observables").iterdir()] == ["structures.extxyz"]
    assert list(load_observables(folder).found) == ["density"]


def test_page_of_its_own(folder):
    page = write_observables_page(folder, "msmlff evaluate trajectory=salt.extxyz").read_text()
    assert "<title>ClNa · 120 frames of 8 atoms</title>" in page
    assert "msmlff evaluate trajectory=salt.extxyz" in page
    shown = set(re.findall(r'data-plot="observable-(\w+)"', page))
    assert {"rdf", "adf", "msd", "vdos", "coordination"} <= shown
    assert "12.5" in page
    assert 'data-structures="structures"' in page
    assert "do not diffuse freely" in page


def test_section_of_a_run(folder):
    (folder / "record.json").write_text(json.dumps({"command": "python train.py", "status": "finished"}))
    page = write_report(folder).read_text()
    assert 'id="observables"' in page
    assert 'data-plot="observable-rdf"' in page
    (folder / "observables.json").write_text('{"format": "msmlff-observables"}')
    assert "observables.json is damaged" in write_report(folder).read_text()


def test_no_observables_are_no_page(tmp_path):
    with pytest.raises(InputError, match=r"no observables\.json"):
        write_observables_page(tmp_path, "")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.01345, 0.0213, "2.013 ± 0.021"),
        (1234.5, 56.0, "1234 ± 56"),
        (5.0, float("nan"), "5.000"),
        (0.0, 0.0, "0"),
        (float("nan"), 1.0, "—"),
    ],
)
def test_numbers_with_errors(value, error, text):
    assert with_error(Quantity(value, error, "")) == text
