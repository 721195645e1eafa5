"""A model in torch-sim: the calculator's numbers, for systems in batches; dynamics and relaxation run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models import (
    ANIArchitecture,
    ForceField,
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIPArchitecture,
    build_model,
)
from msmlff.models.files import save_model
from msmlff.nn import ops
from msmlff.simulation import MSMLFFCalculator

ts = pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from msmlff.simulation.torch_sim import TorchSimModel  # noqa: E402

SPECIES, E0S = (1, 6, 8), (-13.6, -1029.1, -2041.7)
SCALES = (
    {"cutoff": 2.5, "channels": 4, "l_max": 2, "radial_mlp": [8]},
    {"cutoff": 4.0, "channels": 4, "l_max": 1, "radial_mlp": [8]},
)
ARCHITECTURES: dict[str, Any] = {
    "msmace": MSMACEArchitecture(scales=SCALES, channels=4, neighbor_norm="sqrt", zbl=True),
    "msnequip": MSNequIPArchitecture(scales=SCALES, channels=4, layers=2),
    "ani": ANIArchitecture(cutoff=3.6, angular_cutoff=2.6, hidden=(8, 6)),
}
CPU = torch.device("cpu")


def make(name: str = "msmace") -> ForceField:
    torch.manual_seed(1)
    return build_model(ARCHITECTURES[name], SPECIES, E0S).double().eval()


def crystals() -> list[Atoms]:
    """Of several sizes, rattled and sheared; the smallest is smaller than a cutoff."""
    found = [bulk("CO", "rocksalt", a=4.1), bulk("C", cubic=True), bulk("CO", "rocksalt", a=4.3) * (2, 1, 2)]
    for i, atoms in enumerate(found):
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * np.eye(3, k=1)), scale_atoms=True)
        atoms.rattle(0.1, seed=i)
    return found


def molecules() -> list[Atoms]:
    found = [molecule("CH3CH2OH"), molecule("CO2"), molecule("H2O")]
    for i, atoms in enumerate(found):
        atoms.rattle(0.1, seed=i)
    return found


def check(model: ForceField, systems: Sequence[Atoms], found: dict[str, torch.Tensor], atol: float) -> None:
    """Each system on its own, by the calculator."""
    calculator, first = MSMLFFCalculator(model), 0
    for k, atoms in enumerate(systems):
        own = slice(first, first + len(atoms))
        first += len(atoms)
        energy = calculator.get_potential_energy(atoms)
        np.testing.assert_allclose(found["energy"][k].item(), energy, rtol=1e-12, atol=atol)
        forces = calculator.get_forces(atoms)
        assert abs(forces).max() > 1e-2
        np.testing.assert_allclose(found["forces"][own].numpy(), forces, rtol=0, atol=atol)
        if atoms.pbc.all():
            stress = calculator.get_stress(atoms)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
            np.testing.assert_allclose(found["stress"][k].numpy(), stress, rtol=0, atol=atol)
        else:
            assert found["stress"][k].isnan().all()
    assert found["forces"].shape == (first, 3)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("systems", [crystals(), molecules()], ids=["crystals", "molecules"])
def test_batches_are_the_calculators_systems(name: str, systems: list[Atoms]) -> None:
    model = make(name)
    state = ts.io.atoms_to_state(systems, CPU, torch.float64)
    check(model, systems, TorchSimModel(model)(state), 1e-9)
    parts = ts.io.atoms_to_state(systems[1:], CPU, torch.float64)
    check(model, systems[1:], TorchSimModel(model)(parts), 1e-9)


@pytest.mark.parametrize("backend", ops.available_backends("cpu"))
def test_every_backend(backend: str) -> None:
    model, systems = make(), crystals()
    found = TorchSimModel(model, backend=backend)(ts.io.atoms_to_state(systems, CPU, torch.float64))
    check(model, systems, found, 1e-9)


def test_float32() -> None:
    """The type of states and that of the network are two things."""
    model, systems = make(), crystals()
    wrapped = TorchSimModel(model, network_dtype=torch.float32)
    found = wrapped(ts.io.atoms_to_state(systems, CPU, torch.float64))
    assert wrapped.model.dtype == torch.float32
    assert all(values.dtype == torch.float64 for values in found.values())
    check(model, systems, found, 1e-3)
    assert model.dtype == torch.float64
    wrapped = TorchSimModel(model, dtype=torch.float32)
    found = wrapped(ts.io.atoms_to_state(systems, wrapped.device, wrapped.dtype))
    assert all(values.dtype == torch.float32 for values in found.values())


def test_it_is_what_torch_sim_asks_of_a_model() -> None:
    torch.manual_seed(0)
    architecture = MACEArchitecture(cutoff=4.0, channels=4, l_max=1, layers=1)
    model = build_model(architecture, (14, 26), (-1.0, -2.0)).double()
    validate_model_outputs(TorchSimModel(model), CPU, torch.float64)


def test_what_is_not_asked_for_is_not_there() -> None:
    state = ts.io.atoms_to_state(crystals(), CPU, torch.float64)
    wrapped = TorchSimModel(make(), compute_stress=False)
    assert set(wrapped(state)) == {"energy", "forces"}
    assert (wrapped.compute_forces, wrapped.compute_stress) == (True, False)
    assert set(TorchSimModel(make(), compute_forces=False, compute_stress=False)(state)) == {"energy"}


def soft() -> ForceField:
    """Energies small beside 300 K, but for the cores."""
    torch.manual_seed(0)
    architecture = MACEArchitecture(cutoff=3.0, channels=4, l_max=1, correlation=2, layers=1, zbl=True)
    return build_model(architecture, SPECIES, E0S, Statistics((6.0,), (0.0,) * 3, 0.1)).double()


def test_energy_is_constant_in_nve(tmp_path: Any) -> None:
    path = save_model(soft(), tmp_path / "model.safetensors", {})
    model, systems = TorchSimModel(path, compute_stress=False), [bulk("C", cubic=True) * 2, crystals()[2]]
    state = ts.initialize_state(systems, model.device, model.dtype)
    dt = torch.tensor(0.0005, dtype=torch.float64) * ts.units.MetalUnits.time
    kt = torch.tensor(300.0, dtype=torch.float64) * ts.units.MetalUnits.temperature
    start, step = ts.nve(model=model, dt=dt, kT=kt, seed=0)
    state, totals, kinetics = start(state), [], []
    for _ in range(200):
        state = step(state)
        kinetic = ts.calc_kinetic_energy(
            momenta=state.momenta, masses=state.masses, system_idx=state.system_idx
        )
        kinetics.append(kinetic)
        totals.append(state.energy + kinetic)
    total, kinetic = torch.stack(totals), torch.stack(kinetics)
    assert (np.ptp(kinetic.numpy(), axis=0) > 0.01).all()
    assert (np.ptp(total.numpy(), axis=0) < 0.02 * np.ptp(kinetic.numpy(), axis=0)).all()
    final = ts.integrate(systems, model, integrator=ts.nve, n_steps=5, temperature=300, timestep=0.0005)
    assert final.energy.isfinite().all()


def test_relaxation_ends_at_zero_forces() -> None:
    model, systems = TorchSimModel(soft()), crystals()
    done = ts.optimize(
        systems,
        model,
        optimizer=ts.frechet_cell_fire,
        convergence_fn=ts.generate_force_convergence_fn(force_tol=0.02, include_cell_forces=True),
        max_steps=400,
    )
    relaxed = done.to_atoms()
    for before, after in zip(systems, relaxed, strict=True):
        before.calc = after.calc = MSMLFFCalculator(model.model)
        assert after.get_potential_energy() < before.get_potential_energy()
        assert abs(after.get_forces()).max() < 0.021
        assert abs(after.get_stress()).max() * after.get_volume() < 0.1


def test_elements_the_model_does_not_know_are_named() -> None:
    state = ts.io.atoms_to_state([bulk("Cu"), bulk("C")], CPU, torch.float64)
    with pytest.raises(InputError, match="never saw Cu, it knows H, C, O"):
        TorchSimModel(make())(state)
    with pytest.raises(InputError, match="nowhere"):
        TorchSimModel("nowhere")
