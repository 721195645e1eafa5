"""Molecular dynamics with trained models."""

from msmlff.simulation.calculator import MSMLFFCalculator
from msmlff.simulation.langevin import BatchedLangevin, Failure, LangevinSettings

__all__ = ["BatchedLangevin", "Failure", "LangevinSettings", "MSMLFFCalculator"]
