"""NequIP (Batzner et al., arXiv 2101.03164): MS-NequIP with one scale."""

from __future__ import annotations

from msmlff.models.architecture import NequIPArchitecture
from msmlff.models.msnequip import MSNequIP


class NequIP(MSNequIP):
    """NequIP with the hyperparameters of nequip; arguments and errors are those of ``MSNequIP``."""

    architecture: NequIPArchitecture
