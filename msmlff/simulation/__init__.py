"""Molecular dynamics with trained models."""

from msmlff.simulation.calculator import MSMLFFCalculator
from msmlff.simulation.engine import Hook, MDSettings, MolecularDynamics
from msmlff.simulation.ensembles import NPT, NVE, NVT
from msmlff.simulation.failure import Failure, Limits
from msmlff.simulation.forces import Biased, Committee, Evaluation, ForceProvider, ModelForces

__all__ = [
    "NPT", "NVE", "NVT", "Biased", "Committee", "Evaluation", "Failure", "ForceProvider", "Hook", "Limits",
    "MDSettings", "MSMLFFCalculator", "ModelForces", "MolecularDynamics",
]  # fmt: skip
