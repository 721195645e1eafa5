"""Force fields."""

from msmlff.models.ani import ANI, ANIArchitecture
from msmlff.models.architecture import (
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIPArchitecture,
    NequIPArchitecture,
    Scale,
)
from msmlff.models.base import ForceField, Prediction
from msmlff.models.build import build_model
from msmlff.models.mace import MACE
from msmlff.models.msmace import MSMACE
from msmlff.models.msnequip import MSNequIP
from msmlff.models.nequip import NequIP

__all__ = [
    "ANI",
    "ANIArchitecture",
    "MACE",
    "MSMACE",
    "ForceField",
    "MACEArchitecture",
    "MSMACEArchitecture",
    "MSNequIP",
    "MSNequIPArchitecture",
    "NequIP",
    "NequIPArchitecture",
    "Prediction",
    "Scale",
    "build_model",
]
