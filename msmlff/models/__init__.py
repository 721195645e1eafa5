"""Force fields."""

from msmlff.models.base import ForceField, Prediction
from msmlff.models.mace import MACE
from msmlff.models.msmace import MSMACE, Scale

__all__ = ["MACE", "MSMACE", "ForceField", "Prediction", "Scale"]
