"""What any force field must obey: a model's test class inherits ForceFieldContract, giving ``make_model``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import units
from ase.build import make_supercell
from ase.data import atomic_masses
from scipy.spatial.transform import Rotation
from systems import crystal, ethanol, make_batch, moved, strained

from msmlff.data.batch import Batch
from msmlff.data.configuration import Configuration
from msmlff.models import ForceField, Prediction
from msmlff.models.build import model_from_config

SPECIES = (1, 6, 8)
E0S = {1: -13.6, 6: -1029.1, 8: -2041.7}


def evaluate(model: ForceField, *frames: Configuration, skin: float = 0.0) -> Prediction:
    return model.eval()(make_batch(model, *frames, skin=skin), stress=True)


def close(actual: object, expected: object, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual), torch.as_tensor(expected), rtol=tolerance, atol=tolerance
    )


def energy_change(model: ForceField, step: float, duration: float, *frames: Configuration) -> np.ndarray:
    """Velocity Verlet from 300 K, step and duration in fs.

    Returns [2, frames]: eV, the worst change of the total energy and the largest one of the kinetic energy.
    """
    frame_of_atom = np.repeat(np.arange(len(frames)), [len(f) for f in frames])
    masses = atomic_masses[np.concatenate([f.numbers for f in frames])][:, None]
    normal = np.random.default_rng(5).normal(size=(len(masses), 3))
    velocities = normal * np.sqrt(300 * units.kB / masses)
    dt = step * units.fs
    prediction, energies = evaluate(model, *frames), []
    for _ in range(round(duration / step) + 1):
        kinetic = np.bincount(frame_of_atom, (0.5 * masses * velocities**2).sum(axis=1))
        energies.append((prediction.energy.numpy() + kinetic, kinetic))
        velocities = velocities + 0.5 * dt * prediction.forces.numpy() / masses
        steps = np.split(dt * velocities, np.cumsum([len(f) for f in frames])[:-1])
        frames = tuple(moved(f, f.positions + d) for f, d in zip(frames, steps, strict=True))
        prediction = evaluate(model, *frames)
        velocities = velocities + 0.5 * dt * prediction.forces.numpy() / masses
    series = np.array(energies)
    return np.abs(series - series[0]).max(axis=0)


class ForceFieldContract:
    """The tests; energies of the models are of the order of an eV, in float64."""

    def make_model(self) -> ForceField:
        raise AssertionError("a test class of a model defines make_model")

    @pytest.fixture
    def model(self) -> ForceField:
        torch.manual_seed(7)
        model = self.make_model().double()
        assert model.atomic_numbers == SPECIES
        return model

    def test_rotation_and_reflection(self, model: ForceField) -> None:
        frame = crystal()
        matrix = -Rotation.random(random_state=1).as_matrix()
        turned = Configuration(frame.numbers, frame.positions @ matrix.T, frame.cell @ matrix.T, frame.pbc)
        before, after = evaluate(model, frame), evaluate(model, turned)
        assert before.forces.abs().max() > 0.05
        close(after.energy, before.energy)
        close(after.forces, before.forces @ torch.from_numpy(matrix.T))
        rotation = torch.from_numpy(matrix)
        close(after.stress[0], rotation @ before.stress[0] @ rotation.T)

    def test_permutation(self, model: ForceField) -> None:
        frame = ethanol()
        order = np.random.default_rng(2).permutation(len(frame))
        shuffled = Configuration(frame.numbers[order], frame.positions[order])
        before, after = evaluate(model, frame), evaluate(model, shuffled)
        close(after.energy, before.energy)
        close(after.forces, before.forces[order])
        close(after.atomic_energies, before.atomic_energies[order])

    def test_translation_and_wrapping(self, model: ForceField) -> None:
        frame = crystal()
        images = np.random.default_rng(3).integers(-2, 3, frame.positions.shape) @ frame.cell
        other = moved(frame, frame.positions + images + np.array([0.7, -3.1, 11.0]))
        before, after = evaluate(model, frame), evaluate(model, other)
        close(after.energy, before.energy)
        close(after.forces, before.forces)
        close(after.stress, before.stress)

    def test_forces_are_minus_the_gradient(self, model: ForceField) -> None:
        for frame in (ethanol(), crystal()):
            forces, step = evaluate(model, frame).forces, 1e-4
            for atom, axis in ((0, 0), (3, 1), (7, 2)):
                delta = np.zeros_like(frame.positions)
                delta[atom, axis] = step
                plus = evaluate(model, moved(frame, frame.positions + delta)).energy
                minus = evaluate(model, moved(frame, frame.positions - delta)).energy
                close(-(plus - minus).item() / (2 * step), forces[atom, axis].item(), 1e-6)

    def test_dynamics_keep_the_energy(self, model: ForceField) -> None:
        """The integrator's error alone is left, a quarter at half the step; forces 0.1 % wrong are seen."""
        coarse, _ = energy_change(model, 0.4, 8.0, ethanol(), crystal())
        fine, exchanged = energy_change(model, 0.2, 8.0, ethanol(), crystal())
        assert (exchanged > 5e-3).all()
        assert (fine < 5e-3 * exchanged).all()
        assert (fine < 0.28 * coarse).all()

    def test_stress_is_the_strain_derivative(self, model: ForceField) -> None:
        frame, step = crystal(), 1e-4
        stress = evaluate(model, frame).stress[0]
        assert stress.abs().max() > 1e-4
        for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            plus = evaluate(model, strained(frame, strain)).energy
            minus = evaluate(model, strained(frame, -strain)).energy
            derivative = (plus - minus).item() / (2 * step) / frame.volume
            close(derivative, stress[i, j].item(), 1e-7)

    def test_stress_without_a_cell_is_nan(self, model: ForceField) -> None:
        prediction = evaluate(model, ethanol(), crystal())
        assert prediction.stress[0].isnan().all()
        assert prediction.stress[1].isfinite().all()

    def test_smooth_at_every_cutoff(self, model: ForceField) -> None:
        """An atom crosses each cutoff of two others: no step in energy or force, but an effect before it."""
        for cutoff in model.scale_cutoffs:

            def at(x: float) -> Prediction:
                positions = np.array([[0.0, 0, 0], [0, 0.9, 0.3], [x, 0, 0]])
                return evaluate(model, Configuration(np.array([6, 1, 8]), positions))

            inside, outside, well_inside = at(cutoff - 1e-5), at(cutoff + 1e-5), at(cutoff - 0.6)
            assert (well_inside.forces - outside.forces).abs().max() > 1e-5
            close(inside.energy, outside.energy, 1e-9)
            assert (inside.forces - outside.forces).abs().max() < 1e-4 * 0.6

    def test_force_has_no_step_at_a_cutoff(self, model: ForceField) -> None:
        """The change of force over a cutoff vanishes with the distance: faster than linearly."""
        for cutoff in model.scale_cutoffs:

            def change(step: float, cutoff: float = cutoff) -> float:
                def forces(x: float) -> torch.Tensor:
                    return evaluate(
                        model, Configuration(np.array([6, 8]), np.array([[0.0, 0, 0], [x, 0, 0]]))
                    ).forces

                beyond = forces(max(model.scale_cutoffs) + 1.0) if cutoff == model.cutoff else None
                if beyond is not None:
                    return float((forces(cutoff - step) - beyond).abs().max())
                middle = forces(cutoff)
                return float((forces(cutoff + step) + forces(cutoff - step) - 2 * middle).abs().max())

            assert change(0.05) < 0.4 * change(0.1) + 1e-12

    def test_extensive_and_independent_of_the_batch(self, model: ForceField) -> None:
        frame = crystal()
        atoms = make_supercell(frame.to_ase(), np.diag([2, 1, 1]))
        double = Configuration(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        single, molecule = evaluate(model, frame), evaluate(model, ethanol())
        together = evaluate(model, ethanol(), double, frame)
        close(together.energy[0], molecule.energy[0])
        close(together.energy[1], 2 * single.energy[0])
        close(together.energy[2], single.energy[0])
        close(together.forces[: len(ethanol())], molecule.forces)
        close(together.forces[-len(frame) :], single.forces)
        close(together.stress[1], single.stress[0])

    @pytest.mark.parametrize("species", [(6,), (6, 8)], ids=["one_atom", "two_atoms"])
    def test_cells_smaller_than_the_cutoff(self, model: ForceField, species: tuple[int, ...]) -> None:
        """An atom and its own images, many of them below each cutoff: as in the supercell of the crystal."""
        cell = len(species) ** (1 / 3) * np.array([[1.6, 0.2, 0.0], [0.0, 1.7, 0.1], [0.15, 0.0, 1.5]])
        assert np.linalg.norm(cell, axis=1).max() < min(model.scale_cutoffs)
        fractions = np.array([[0.1, 0.2, 0.3], [0.42, 0.63, 0.66]])[: len(species)]
        small = Configuration(np.array(species), fractions @ cell, cell, np.ones(3, dtype=bool))
        atoms = small.to_ase() * (3, 2, 4)
        large = Configuration(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        one, many = evaluate(model, small), evaluate(model, large)
        e0 = sum(E0S[z] for z in species)
        assert abs(one.energy.item() - e0) > 5e-3
        assert one.stress.abs().max() > 1e-3
        assert len(species) == 1 or one.forces.abs().max() > 0.02
        close(many.energy / 24 - e0, one.energy - e0)
        close(many.forces, one.forces.repeat(24, 1))
        close(many.stress, one.stress)

    def test_far_molecules_do_not_see_each_other(self, model: ForceField) -> None:
        a, b = ethanol(0), ethanol(1)
        shift = np.array([model.cutoff + 20.0, 0, 0])
        both = Configuration(
            np.concatenate([a.numbers, b.numbers]), np.concatenate([a.positions, b.positions + shift])
        )
        apart, together = evaluate(model, a, b), evaluate(model, both)
        close(together.energy[0], apart.energy.sum())
        close(together.forces, apart.forces)

    def test_isolated_atoms_have_their_reference_energy(self, model: ForceField) -> None:
        frames = [Configuration(np.array([z]), np.zeros((1, 3))) for z in SPECIES]
        prediction = evaluate(model, *frames)
        assert prediction.energy.tolist() == [E0S[z] for z in SPECIES]
        assert not prediction.forces.any()
        with_neighbours = evaluate(model, ethanol(), *frames)
        assert with_neighbours.energy[1:].tolist() == [E0S[z] for z in SPECIES]

    def test_energies_add_up(self, model: ForceField) -> None:
        prediction = evaluate(model, ethanol(), crystal())
        assert prediction.energy.dtype == torch.float64
        n = len(ethanol())
        close(prediction.atomic_energies[:n].sum(), prediction.energy[0])
        close(prediction.atomic_energies[n:].sum(), prediction.energy[1])

    def test_edges_beyond_the_cutoff_change_nothing(self, model: ForceField) -> None:
        frame = crystal()
        tight, loose = evaluate(model, frame), evaluate(model, frame, skin=1.0)
        close(loose.energy, tight.energy)
        close(loose.forces, tight.forces)

    def test_float32_agrees(self, model: ForceField) -> None:
        frames = (ethanol(), crystal())
        double = evaluate(model, *frames)
        single = evaluate(model.float(), *frames)
        assert single.forces.dtype == single.stress.dtype == single.energy.dtype == torch.float64
        close(single.energy, double.energy, 1e-5)
        scale = double.forces.abs().max()
        close(single.forces / scale, double.forces / scale, 1e-5)

    def test_float32_keeps_its_digits_far_from_the_origin(self, model: ForceField) -> None:
        """Unwrapped atoms, and a whole frame 100 µm away: the network sees the same edges."""
        model = model.float()
        for frame in (ethanol(), crystal()):
            images = np.random.default_rng(0).integers(-5000, 5001, frame.positions.shape) @ frame.cell
            near, far = evaluate(model, frame), evaluate(model, moved(frame, frame.positions + images + 1e6))
            close(far.energy, near.energy, 1e-6)
            close(far.forces, near.forces, 1e-5)

    def test_gradient_of_a_force_loss(self, model: ForceField) -> None:
        """The parameters' gradient of a loss on energy, forces and stress, along a random direction."""
        batch = make_batch(model, ethanol(), crystal())
        target = model(batch, forces=False).energy.detach() - 0.5

        def loss() -> torch.Tensor:
            p = model.train()(batch, stress=True)
            return (p.energy - target).pow(2).sum() + p.forces.pow(4).sum() + p.stress[1].pow(2).sum()

        torch.manual_seed(0)
        parameters = list(model.parameters())
        loss().backward()
        assert all(p.grad is not None for p in parameters)
        direction = [torch.randn_like(p) for p in parameters]
        derivative = sum((p.grad * d).sum().item() for p, d in zip(parameters, direction, strict=True))
        step, values = 1e-5, []
        for factor in (1.0, -2.0):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(d, alpha=factor * step)
            values.append(loss().item())
        assert derivative == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)

    def test_deterministic(self, model: ForceField) -> None:
        batch = make_batch(model, ethanol(), crystal())

        def run() -> list[torch.Tensor]:
            model.zero_grad()
            prediction = model.train()(batch)
            (prediction.forces.pow(2).sum() + prediction.energy.sum()).backward()
            return [prediction.energy, prediction.forces, *(p.grad.clone() for p in model.parameters())]

        assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))

    def test_graph_is_kept_in_training_alone(self, model: ForceField) -> None:
        batch: Batch = make_batch(model, ethanol())
        assert model.train()(batch).forces.requires_grad
        prediction = model.eval()(batch, stress=True)
        for value in (prediction.energy, prediction.forces, prediction.stress):
            assert not value.requires_grad
        with torch.no_grad():
            assert model(batch).forces.abs().max() > 0
        only_energy = model(batch, forces=False)
        assert only_energy.forces is None
        assert only_energy.stress is None

    def test_features_are_invariant(self, model: ForceField) -> None:
        frame = ethanol()
        matrix = -Rotation.random(random_state=4).as_matrix()
        features = model.features(make_batch(model, frame))
        assert features.shape[0] == len(frame)
        assert features.std() > 1e-3
        close(model.features(make_batch(model, moved(frame, frame.positions @ matrix.T))), features)

    def test_config_makes_the_same_model(self, model: ForceField) -> None:
        config = json.loads(json.dumps(model.config()))
        twin = model_from_config(config).double()
        assert type(twin) is type(model)
        twin.load_state_dict(model.state_dict())
        assert twin.config() == model.config()
        close(evaluate(twin, ethanol()).energy, evaluate(model, ethanol()).energy, 1e-14)
