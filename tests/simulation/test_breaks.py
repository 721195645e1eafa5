"""What is raised in the middle of a step, and saves between two steps of output: neither loses anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import LennardJones, fcc

from msmlff.data.batch import Batch
from msmlff.simulation import (
    NPT,
    NVE,
    NVT,
    Evaluation,
    Limits,
    MDSettings,
    ModelForces,
    MolecularDynamics,
)
from msmlff.simulation.ensembles import Ensemble
from msmlff.simulation.output import Output, OutputSpec
from msmlff.simulation.restart import RESTART, load_restart

STARTS = [fcc(), fcc(seed=1)]
RAMP = {"temperature_end": 50.0, "ramp_steps": 30}
CASES: list[tuple[Ensemble, dict]] = [
    (NVE(), {}),
    (NVT(thermostat="nose_hoover"), RAMP),
    (NVT(thermostat="langevin"), {}),
    (NPT(barostat_time=50.0, pressure_end=2.0, cell="full"), RAMP),
]


class Breaking:
    """Forces that end in a MemoryError at one of their calls."""

    def __init__(self, call: int) -> None:
        self.forces, self.left = ModelForces(LennardJones()), call
        self.cutoff, self.atomic_numbers, self.device = 5.0, (1,), torch.device("cpu")

    def __call__(self, batch: Batch, stress: bool) -> Evaluation:
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no room for a piece")
        return self.forces(batch, stress)


def dynamics(ensemble: Ensemble, settings: dict, call: int = 0) -> MolecularDynamics:
    limits = Limits(0.1, 1e6)
    return MolecularDynamics(
        Breaking(call), STARTS, ensemble, MDSettings(1.0, 300.0, seed=2, skin=0.05, limits=limits, **settings)
    )


def assert_equal(one: MolecularDynamics, other: MolecularDynamics) -> None:
    assert one.step == other.step
    states = one.state(), other.state()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert one.conserved() == other.conserved()


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_step_that_breaks_off_has_not_been(number: int) -> None:
    """Its number, positions, velocities, cell and bath are those of before; then it can be done again."""
    ensemble, settings = CASES[number]
    md, whole = dynamics(ensemble, settings, call=18), dynamics(ensemble, settings)
    with pytest.raises(MemoryError):
        md.run(40)
    whole.run(16)
    assert md.step == 16
    for name in ("positions", "velocities", "cell"):
        assert torch.equal(getattr(md.system, name), getattr(whole.system, name)), name
    assert md.conserved() == whole.conserved()
    md.run(24)
    whole.run(24)
    assert_equal(md, whole)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_is_saved_after_a_break_goes_on_bit_for_bit(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a search for neighbours broke off."""
    ensemble, settings = CASES[number]
    md, whole, again = (dynamics(ensemble, settings) for _ in range(3))
    md.run(10)

    def full(*_: object) -> None:
        raise MemoryError("no room for neighbours")

    with monkeypatch.context() as patch:
        patch.setattr("msmlff.simulation.edges.neighbor_list_for", full)
        with pytest.raises(MemoryError):
            md.run(30)
    assert 10 <= md.step < 40
    again.restore(md.state(), md.step, {})
    whole.run(40)
    again.run(40 - again.step)
    assert_equal(again, whole)
    md.run(40 - md.step)  # neighbours in another order: the same to rounding
    torch.testing.assert_close(md.system.positions, whole.system.positions, rtol=0.0, atol=1e-9)


def test_hooks_see_the_step_that_was_done() -> None:
    """An exception of a hook leaves the step done: files may have it."""

    class Full:
        every, stress = 7, False

        def __call__(self, md: MolecularDynamics) -> None:
            raise OSError("full")

    md, whole = dynamics(NVE(), {}), dynamics(NVE(), {})
    md.hooks = [Full()]
    with pytest.raises(OSError, match="full"):
        md.run(10)
    whole.run(7)
    assert_equal(md, whole)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_save_between_two_steps_of_output_goes_on_bit_for_bit(tmp_path: Path, number: int) -> None:
    """save_seconds is a time, however seldom frames and rows are written."""
    ensemble, settings = CASES[number]
    spec = OutputSpec(every=16, thermo_every=16, save_seconds=0.0)
    files = {}
    for name, parts in (("whole", [20]), ("parts", [5, 15])):
        (tmp_path / name).mkdir()
        for steps in parts:
            output, md = Output(tmp_path / name, spec, STARTS, {}), dynamics(ensemble, settings)
            if (tmp_path / name / RESTART).is_file():
                saved = load_restart(tmp_path / name / RESTART)
                assert saved.step == 5
                md.restore(saved.state, saved.step, saved.failures)
                output.restore(saved)
                md.hooks = list(output.hooks)
            else:
                md.hooks = list(output.hooks)
                md.call_hooks()
            md.run(steps)
        files[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    assert files["whole"] == files["parts"]
