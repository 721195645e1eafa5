"""The ML-IAP pair style: domains that exchange features give what the whole system's evaluation gives."""

from __future__ import annotations

import os
import pickle
import pickletools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lammps_system as system
import mliap_system
import numpy as np
import pytest
import torch
from ase.units import bar
from mliap_domains import Domain, ExchangingDomain, World, collect, decompose
from systems import make_batch

from msmlff.data.collate import collate, species_of
from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import neighbor_list
from msmlff.errors import InputError
from msmlff.models import (
    ANIArchitecture,
    ForceField,
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIPArchitecture,
    NequIPArchitecture,
    build_model,
)
from msmlff.nn import ops
from msmlff.sampling import random_packing
from msmlff.simulation.mliap import MLIAPModel, export_mliap

SPECIES, E0S = (1, 6, 8), (-13.6, -1029.1, -2041.7)
SCALES = (
    {"cutoff": 2.0, "channels": 4, "l_max": 2, "radial_mlp": [8]},
    {"cutoff": 3.0, "channels": 4, "l_max": 1, "radial_mlp": [8]},
)
#: Made-up coefficients of H, C, O.
TABLE: dict[str, Any] = {
    "s6": 1.0,
    "s8": 0.8,
    "a1": 0.4,
    "a2": 4.5,
    "coordination": [[0.9, 0.0], [0.0, 3.0], [0.0, 2.0]],
    "c6": np.einsum("ia,jb->ijab", *[np.array([[1.3, 1.8], [5.0, 4.2], [2.7, 2.3]])] * 2).tolist(),
    "radii": [0.8, 1.9, 1.6],
    "r4r2": [2.0, 3.1, 2.6],
}
DISPERSION: Any = {"s8": 0.8, "a1": 0.4, "a2": 4.5, "cutoff": 4.2, "table": TABLE}
GRIDS = [(1, 1, 1), (2, 1, 1), (2, 1, 2)]


def msmace(**keys: Any) -> MSMACEArchitecture:
    return MSMACEArchitecture(scales=SCALES, channels=4, hidden_l_max=1, neighbor_norm="sqrt", **keys)


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "msmace": msmace,
    "msmace, three layers": lambda: msmace(layers=3),
    "msmace, zbl and dispersion": lambda: msmace(zbl=True, dispersion=DISPERSION),
    "msmace, one layer and dispersion": lambda: msmace(layers=1, dispersion=DISPERSION),
    "mace": lambda: MACEArchitecture(cutoff=3.0, channels=4, l_max=2, hidden_l_max=1),
    "mace, residual": lambda: MACEArchitecture(cutoff=2.5, channels=4, l_max=2, residual_first=True),
    "mace, one layer": lambda: MACEArchitecture(cutoff=3.0, channels=4, l_max=2, layers=1),
    "msnequip": lambda: MSNequIPArchitecture(scales=SCALES, channels=4, layers=3, readout_hidden=4),
    "nequip": lambda: NequIPArchitecture(cutoff=2.8, channels=4, l_max=2, layers=4),
    "ani": lambda: ANIArchitecture(cutoff=3.6, angular_cutoff=2.6, hidden=(8, 6)),
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Domains are threads already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name: str) -> ForceField:
    torch.manual_seed(1)
    return build_model(ARCHITECTURES[name](), SPECIES, E0S).double().eval()


def liquid(atoms: int = 60, packing: float = 1.5) -> Configuration:
    """Random H, C, O in a sheared periodic cell, not wrapped into it."""
    elements = ["H"] * (atoms // 2) + ["C"] * (atoms // 4) + ["O"] * (atoms - atoms // 2 - atoms // 4)
    frame = random_packing(elements, packing, min_distance=1.0, seed=0)
    shear = np.array([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    cell = frame.cell @ shear
    images = np.random.default_rng(0).integers(-2, 3, frame.positions.shape)
    return Configuration(frame.numbers, frame.positions @ shear + images @ cell, cell, np.ones(3, bool))


def in_a_corner() -> Configuration:
    """Ten atoms in a cell of which most is empty, and one of them with no neighbour."""
    cell = np.diag([40.0, 9.0, 9.0])
    cluster = random_packing(["C"] * 3 + ["H"] * 4 + ["O"] * 2, 1.5, min_distance=1.0, seed=2).positions
    positions = np.concatenate([cluster + 2.0 - cluster.min(axis=0), [[10.5, 4.5, 4.5]]])
    numbers = np.array([6, 6, 6, 1, 1, 1, 1, 8, 8, 1])
    return Configuration(numbers, positions, cell, np.ones(3, bool))


def domains(
    model: ForceField,
    frame: Configuration,
    grid: tuple[int, int, int],
    kind: Callable[..., Domain] = ExchangingDomain,
) -> tuple[World, list[np.ndarray], list[MLIAPModel]]:
    """The frame's domains, and for each the model as LAMMPS reads it from a file."""
    species = species_of([frame], model.atomic_numbers)
    world, owned = decompose(frame, species, model.cutoff, grid, kind)
    content = pickle.dumps(MLIAPModel(model))
    return world, owned, [pickle.loads(content) for _ in world.domains]


def check(
    model: ForceField,
    frame: Configuration,
    grid: tuple[int, int, int],
    kind: Callable[..., Domain] = ExchangingDomain,
    tolerance: float = 1e-10,
) -> World:
    """Domains against the evaluation of the whole; differences are of the largest of each quantity."""
    batch = collate([frame], [neighbor_list(frame.positions, frame.cell, frame.pbc, model.cutoff)], SPECIES)
    whole = model(batch, stress=True)
    assert whole.forces is not None
    assert whole.stress is not None
    world, owned, models = domains(model, frame, grid, kind)
    world.step(models)
    found = collect(world, owned)
    volume = abs(np.linalg.det(frame.cell))
    force, virial = whole.forces.numpy(), -volume * whole.stress[0].numpy()
    assert abs(force).max() > 1e-2
    assert abs(virial).max() > 1e-2
    np.testing.assert_allclose(found["energy"], whole.energy.item(), rtol=1e-12 + tolerance / 100)
    np.testing.assert_allclose(found["energies"], whole.atomic_energies.numpy(), rtol=1e-12 + tolerance / 100)
    np.testing.assert_allclose(found["forces"], force, rtol=0, atol=tolerance * abs(force).max())
    np.testing.assert_allclose(found["virial"], virial, rtol=0, atol=tolerance * abs(virial).max())
    return world


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_domains_add_up_to_the_whole(name: str, grid: tuple[int, int, int]) -> None:
    model = make(name)
    world = check(model, liquid(), grid)
    calls = [domain.exchanges for domain in world.domains]
    assert all(of_domain == calls[0] for of_domain in calls)
    kinds = [kind for kind, _ in calls[0]]
    assert kinds.count("forward") == kinds.count("reverse")
    assert bool(kinds) == any(hops > 1 for hops, _ in model.reaches)


def test_ghosts_are_as_thick_as_one_cutoff() -> None:
    """Of what the tests above show, that is the point: an energy depends on atoms farther than ghosts are."""
    model, frame = make("msmace, three layers"), liquid(400)
    world, _, _ = domains(model, frame, (2, 1, 1))
    height = 1.0 / np.linalg.norm(np.linalg.inv(frame.cell), axis=0)
    assert model.receptive_field > 2.9 * model.cutoff
    for domain in world.domains:
        thick = (height[0] / 2 + 2 * model.cutoff) * np.prod(height[1:] + 2 * model.cutoff)
        volume = thick * abs(np.linalg.det(frame.cell)) / np.prod(height)
        assert domain.ntotal < 1.1 * volume * len(frame) / abs(np.linalg.det(frame.cell))
    check(model, frame, (2, 1, 1))


@pytest.mark.parametrize("name", ["msmace, zbl and dispersion", "nequip", "ani"])
@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
def test_domains_without_atoms_and_atoms_without_neighbours(name: str, backend: str) -> None:
    model, frame = make(name), in_a_corner()
    with ops.use_backend(backend):
        world = check(model, frame, (5, 1, 1))
    own = [domain.nlocal for domain in world.domains]
    assert own == [9, 1, 0, 0, 0]
    assert [domain.ntotal == 0 for domain in world.domains] == [False, False, True, True, False]
    assert world.domains[1].npairs == 0


def test_a_cell_smaller_than_the_cutoff() -> None:
    """Ghosts are images of a domain's own atoms, several of one."""
    frame = liquid(12)
    assert (np.linalg.norm(frame.cell, axis=1) < 2 * 3.0).all()
    check(make("msmace"), frame, (1, 1, 1))
    check(make("msmace"), frame, (1, 2, 1))


@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
@pytest.mark.parametrize("name", ["msmace", "msnequip"])
def test_every_backend(name: str, backend: str) -> None:
    with ops.use_backend(backend):
        check(make(name), liquid(40), (2, 1, 1))


def test_more_species_than_the_first_layer_sums_over() -> None:
    torch.manual_seed(0)
    model = build_model(
        MACEArchitecture(cutoff=2.6, channels=4, l_max=2), (1, 5, 6, 7, 8, 9), [0.0] * 6
    ).double()
    frame = random_packing(["H", "B", "C", "N", "O", "F"] * 8, 1.5, min_distance=1.0, seed=1)
    batch = collate(
        [frame],
        [neighbor_list(frame.positions, frame.cell, frame.pbc, model.cutoff)],
        model.atomic_numbers,
    )
    forces = model.eval()(batch).forces
    assert forces is not None
    world, owned, models = domains(model, frame, (2, 1, 1))
    world.step(models)
    np.testing.assert_allclose(collect(world, owned)["forces"], forces.numpy(), atol=1e-10)


def test_float32() -> None:
    model = make("msmace").float()
    check(model, liquid(), (2, 1, 1), tolerance=1e-4)


def test_pairs_of_ghosts_change_nothing() -> None:
    """``unified FILE 1`` gives the neighbours of ghosts, too."""
    model, frame = make("msmace"), liquid(30)
    world, owned, models = domains(model, frame, (2, 1, 1))
    world.step(models)
    expected = collect(world, owned)
    for domain in world.domains:
        arrays, ghost = domain._arrays, domain.nlocal
        arrays["pair_i"] = np.append(arrays["pair_i"], np.int32(ghost))
        arrays["pair_j"] = np.append(arrays["pair_j"], np.int32(0))
        arrays["rij"] = np.concatenate([arrays["rij"], [[1.0, 0.5, 0.2]]])
        domain.npairs += 1
    world.step(models)
    found = collect(world, owned)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("name", ["mace, one layer", "ani"])
def test_without_kokkos_models_of_one_cutoff_run(name: str) -> None:
    check(make(name), liquid(40), (2, 1, 1), Domain)


def test_without_kokkos_messages_are_refused() -> None:
    for name in ("msmace", "msmace, one layer and dispersion"):
        world, _, models = domains(make(name), liquid(30), (1, 1, 1), Domain)
        with pytest.raises(InputError, match=r"take one built with KOKKOS.* or take fix external"):
            world.step(models)


def test_atoms_without_an_element_are_refused() -> None:
    world, _, models = domains(make("ani"), liquid(30), (1, 1, 1), Domain)
    world.domains[0]._arrays["elems"][3] = -1
    with pytest.raises(InputError, match="no element: pair_coeff must give one for each type"):
        world.step(models)


@pytest.mark.parametrize("name", ["model.mliap", "model.pt"])
def test_a_file_holds_the_model_and_no_code(name: str, tmp_path: Path) -> None:
    model = make("msmace")
    path = export_mliap(model, tmp_path / name, {"label_level": "none"})
    assert list(tmp_path.iterdir()) == [path]
    if name.endswith(".pt"):
        # pickled whole, as LAMMPS reads it; it is the file written above
        found = torch.load(path, weights_only=False)
    else:
        found = pickle.loads(path.read_bytes())
    assert found.element_types == ["H", "C", "O"]
    assert found.rcutfac == 1.5  # LAMMPS doubles it
    assert (found.ndescriptors, found.nparams, found.interface) == (1, 1, None)
    assert found.record == {"label_level": "none"}
    for ours, theirs in zip(model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(p.requires_grad for p in model.parameters())  # it is left as it was


def test_what_the_pickle_calls_is_one_function(tmp_path: Path) -> None:
    content = export_mliap(make("ani"), tmp_path / "model.mliap").read_bytes()
    strings = [argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)]
    assert strings == ["msmlff.simulation.mliap", "read_content"]


def test_bad_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        export_mliap(make("ani"), tmp_path / "nowhere" / "model.mliap")


REASON = mliap_system.missing()
in_lammps = pytest.mark.skipif(bool(REASON), reason=REASON)
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@in_lammps
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", ["one layer", "two layers"])
def test_in_lammps(name: str, ranks: int, tmp_path: Path) -> None:
    if name == "two layers" and not mliap_system.has_kokkos():
        pytest.skip("this LAMMPS has no KOKKOS")
    if ranks > 1 and MPIEXEC is None:
        pytest.skip("no mpiexec")
    model: ForceField = system.model() if name == "two layers" else system.fast_model()
    export_mliap(model, tmp_path / "model.mliap")
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    launch = [] if ranks == 1 else [str(MPIEXEC), "-n", str(ranks)]
    done = subprocess.run(
        [*launch, sys.executable, str(here / "mliap_system.py"), "model.mliap", "out.npz"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(np.load(tmp_path / "out.npz"))
    assert found["ranks"] == ranks
    frame = system.liquid()
    ours = model(make_batch(model, frame), stress=True)
    assert ours.forces is not None
    assert ours.stress is not None
    force, stress = ours.forces.numpy(), ours.stress[0].numpy()
    np.testing.assert_allclose(found["energy"], ours.energy.item(), rtol=1e-12)
    np.testing.assert_allclose(found["forces"], force, rtol=0, atol=1e-10 * abs(force).max())
    tensor = [-stress.trace() / 3]
    tensor += [-stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    # LAMMPS's eV/Å³ in bar has eight digits
    np.testing.assert_allclose(found["pressure"] * bar, tensor, rtol=1e-6, atol=1e-7 * abs(stress).max())
