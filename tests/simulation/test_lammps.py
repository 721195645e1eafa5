"""Forces in LAMMPS by fix external: those of the model, on one rank and on two; constant energy in time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lammps_system as system
import numpy as np
import pytest
import torch
from ase.units import bar
from systems import make_batch

from msmlff.errors import InputError
from msmlff.models import MACE, MACEArchitecture, Prediction
from msmlff.models.files import save_model
from msmlff.simulation.lammps import attach, import_lammps


def _missing() -> str:
    try:
        import_lammps()
    except InputError as error:
        return str(error)
    return ""


REASON = _missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
#: Of the wheel's MPI, where it is installed beside this Python.
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def lmp() -> Iterator[Any]:
    instance = system.start(system.liquid())
    yield instance
    instance.close()


def expected() -> Prediction:
    model = system.model()
    return model(make_batch(model, system.liquid()), stress=True)


def check(found: dict[str, np.ndarray]) -> None:
    ours = expected()
    assert ours.forces is not None
    assert ours.stress is not None
    np.testing.assert_allclose(found["energy"], float(ours.energy[0]), rtol=1e-12)
    scale = float(ours.forces.abs().max())
    assert scale > 0.1
    np.testing.assert_allclose(found["forces"] / scale, ours.forces.numpy() / scale, atol=1e-11)
    stress = ours.stress[0].numpy()
    tensor = [
        -stress.trace() / 3,
        *(-stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))),
    ]
    assert abs(stress).max() > 1e-3
    # LAMMPS's eV/Å³ in bar has eight digits
    np.testing.assert_allclose(found["pressure"] * bar, tensor, rtol=1e-6, atol=1e-7 * abs(stress).max())


def test_one_rank(lmp: Any) -> None:
    frame, model = system.liquid(), system.model()
    assert model.receptive_field > 0.5 * frame.cell.diagonal().min()  # atoms see images of themselves
    check(system.results(lmp, attach(lmp, model, system.SPECIES), len(frame)))


@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec")
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks(ranks: int, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    assert MPIEXEC is not None
    folder = Path(__file__).parent
    paths = [str(folder), str(folder.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [MPIEXEC, "-n", str(ranks), sys.executable, str(folder / "lammps_system.py"), "out.npz"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(np.load(tmp_path / "out.npz"))
    assert found["ranks"] == ranks
    check(found)


def test_energy_is_constant_over_ten_thousand_steps() -> None:
    """Velocity Verlet, 0.25 fs, at 300 K: kinetic energy goes up and down, the sum does not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lmp = system.start(system.liquid(12))
    try:
        forces = attach(lmp, system.fast_model(), system.SPECIES)
        for command in (
            "velocity all create 300.0 1 mom yes",
            "timestep 0.00025",
            "fix move all nve",
            "thermo_modify norm no",
        ):
            lmp.command(command)
        total, kinetic = [], []
        for _ in range(100):
            lmp.command("run 100 post no")
            total.append(lmp.get_thermo("etotal"))
            kinetic.append(lmp.get_thermo("ke"))
    finally:
        lmp.close()
        torch.set_num_threads(threads)
    assert forces.failure is None
    assert np.ptp(kinetic) > 0.1
    assert np.ptp(total) < 0.05 * np.ptp(kinetic)  # where cores meet, the step is felt for a moment
    drift = np.polyfit(np.arange(100) / 99, total, 1)[0]
    assert abs(drift) < 2e-3  # eV of 12 atoms in 2.5 ps


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lammps.md").read_text()
    script = page.split("```python\n")[1].split("```")[0].replace("run 1000", "run 3")
    architecture = MACEArchitecture(cutoff=3.0, channels=4, l_max=1, layers=1)
    save_model(MACE([28], [-1.0], architecture), tmp_path / "model.safetensors", {})
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(script, "docs/lammps.md", "exec"), names)
    assert names["forces"].failure is None
    assert names["lmp"].extract_global("ntimestep") == 3
    assert names["forces"].energy == pytest.approx(names["lmp"].get_thermo("pe"), rel=1e-12)
    names["lmp"].close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_stops_the_run(lmp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = system.model()
    forces = attach(lmp, model, system.SPECIES)

    def broken(*_: Any, **__: Any) -> Prediction:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", broken)
    lmp.command("fix move all nve")
    lmp.command("run 50")
    assert "out of memory" in str(forces.failure)
    assert lmp.extract_global("ntimestep") < 50
    assert np.isnan(lmp.gather_atoms("f", 1, 3)[0])
    assert np.isnan(lmp.get_thermo("pe"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "commands",
    [
        ("comm_modify cutoff 3.0",),
        ("neigh_modify every 1000 delay 1000 check no", "velocity all create 40000 1", "timestep 0.004"),
    ],
)
def test_a_ghost_shell_that_is_too_thin_stops_the_run(lmp: Any, commands: tuple[str, ...]) -> None:
    """Made thinner afterwards, or too old: atoms that moved farther than the margin."""
    forces = attach(lmp, system.model(), system.SPECIES)
    lmp.command("run 0")
    assert forces.failure is None
    lmp.commands_list(["fix move all nve/limit 0.1", *commands])
    lmp.command("run 100")
    assert "atoms within the model's receptive field (6 Å) are not in the ghost shell" in str(forces.failure)
    assert lmp.extract_global("ntimestep") < 100


def test_a_boundary_that_is_not_periodic_needs_no_ghosts() -> None:
    """A slab, with fixed and with shrink-wrapped faces, in a thin box."""
    for boundary in ("p p f", "p p s", "f f f"):
        lmp = import_lammps()(cmdargs=["-screen", "none", "-log", "none"])
        for command in (
            "units metal",
            f"boundary {boundary}",
            "region box block 0 4 0 5 0 30",
            "create_box 2 box",
            "create_atoms 1 random 12 1 NULL overlap 1.2 maxtry 1000",
            "mass * 16.0",
        ):
            lmp.command(command)
        forces = attach(lmp, system.model(), system.SPECIES)
        lmp.command("run 0")
        assert forces.failure is None, boundary
        assert np.isfinite(forces.energy)
        lmp.close()


def test_bad_input_is_named(lmp: Any) -> None:
    model = system.model()
    for species, message in (
        (["O"], "LAMMPS has 2 atom types: give one element each"),
        (["O", "Xx"], r"species \['Xx'\] are unknown to the model, which knows \['H', 'O'\]"),
    ):
        with pytest.raises(InputError, match=message):
            attach(lmp, model, species)
    with pytest.raises(InputError, match=r"skin is 0\.0; write a positive number"):
        attach(lmp, model, system.SPECIES, skin=0.0)
    lmp.command("clear")
    lmp.command("units real")
    with pytest.raises(InputError, match="LAMMPS has units real"):
        attach(lmp, model, system.SPECIES)
