"""Temperatures of the bath and pressures that change in the course of a run, along straight lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ase.units import GPa
from torch import Tensor

from msmlff.errors import InputError
from msmlff.simulation.barostat import CellRescaling
from msmlff.simulation.ensembles import NPT, NVT, Ensemble, Integrator, bath_temperature
from msmlff.simulation.system import System


@dataclass(frozen=True)
class Ramp:
    """What step ``s`` of a run is done at: (1 - x) start + x end, x = min(1, s / steps).

    It depends on the step alone, so that a run can be taken up anywhere. Afterwards the ends hold, and hooks
    may change them.

    Attributes:
        steps: in which the ends are reached.
        temperature: ([replicas], [replicas]) K at start and end, of all replicas there were at the start;
            None: it is not touched.
        pressure: (start, end) eV/Å³; None: it is not touched.
    """

    steps: int
    temperature: tuple[Tensor, Tensor] | None = None
    pressure: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        ensemble: Ensemble,
        start: Tensor,
        end: float | Sequence[float] | None,
        steps: int | None,
    ) -> Ramp | None:
        """The ramp that is asked for; None where neither temperature nor pressure have an end.

        Args:
            ensemble: its ``pressure_end`` is that of the pressure.
            start: [replicas] K.
            end: K, one number or one a replica; None: ``start`` throughout.
            steps: of the ramp.

        Raises:
            InputError: an end without a thermostat or without a number of steps, an end that is not allowed.
        """
        pressure = None
        if isinstance(ensemble, NPT) and ensemble.pressure_end is not None:
            pressure = ensemble.pressure * GPa, ensemble.pressure_end * GPa
        if end is None and pressure is None:
            return None
        if steps is None or steps < 1:
            raise InputError(f"ramp_steps={steps}: write in how many steps the ends are reached, 1 or more")
        if end is None:
            return cls(steps, None, pressure)
        if not isinstance(ensemble, NVT):
            raise InputError(f"temperature_end={end}: constant energy has no bath; write ensemble=nvt")
        ends = bath_temperature(end, len(start), start.device, "temperature_end")
        if ensemble.thermostat == "nose_hoover" and not bool((ends > 0).all()):
            raise InputError(f"temperature_end={end}: ensemble.thermostat=nose_hoover needs K above 0")
        return cls(steps, (start.clone(), ends), pressure)

    def move(self, integrator: Integrator, system: System, step: int) -> None:
        """Before step number ``step`` (the first is 1): bath and pressure of that step."""
        if step > self.steps:
            return
        if self.temperature is not None:
            start, end = self.temperature
            kelvin = torch.lerp(start, end, step / self.steps)
            integrator.thermostat.temperature = kelvin[torch.from_numpy(system.index).to(kelvin.device)]
        if self.pressure is not None:
            assert isinstance(integrator.barostat, CellRescaling)
            integrator.barostat.change_pressure(system, self._pressure(step))

    def restore(self, integrator: Integrator, step: int) -> None:
        """The pressure that held after ``step`` steps; the bath's temperature is among the saved state."""
        if self.pressure is not None:
            assert isinstance(integrator.barostat, CellRescaling)
            integrator.barostat.pressure = self._pressure(step)

    def _pressure(self, step: int) -> float:
        assert self.pressure is not None
        start, end = self.pressure
        x = min(1.0, step / self.steps)
        return (1.0 - x) * start + x * end
