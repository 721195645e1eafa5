"""MACE (Batatia et al., arXiv 2206.07697): MS-MACE with one scale."""

from __future__ import annotations

from msmlff.models.architecture import MACEArchitecture
from msmlff.models.msmace import MSMACE


class MACE(MSMACE):
    """MACE with the hyperparameters of mace-torch; arguments and errors are those of ``MSMACE``."""

    architecture: MACEArchitecture
