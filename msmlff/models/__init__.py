"""Force fields."""

from msmlff.models.architecture import MACEArchitecture, MSMACEArchitecture, Scale
from msmlff.models.base import ForceField, Prediction
from msmlff.models.build import build_model
from msmlff.models.mace import MACE
from msmlff.models.msmace import MSMACE

__all__ = [
    "MACE",
    "MSMACE",
    "ForceField",
    "MACEArchitecture",
    "MSMACEArchitecture",
    "Prediction",
    "Scale",
    "build_model",
]
