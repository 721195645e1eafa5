"""From an architecture to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msmlff.data.statistics import Statistics
from msmlff.errors import InputError
from msmlff.models.ani import ANI, ANIArchitecture
from msmlff.models.architecture import (
    Architecture,
    MACEArchitecture,
    MSMACEArchitecture,
    MSNequIPArchitecture,
    NequIPArchitecture,
)
from msmlff.models.base import ForceField
from msmlff.models.mace import MACE
from msmlff.models.msmace import MSMACE
from msmlff.models.msnequip import MSNequIP
from msmlff.models.nequip import NequIP

MODELS: dict[type[Architecture], Callable[..., ForceField]] = {
    MSMACEArchitecture: MSMACE,
    MACEArchitecture: MACE,
    MSNequIPArchitecture: MSNequIP,
    NequIPArchitecture: NequIP,
    ANIArchitecture: ANI,
}


def build_model(
    architecture: Architecture,
    atomic_numbers: Sequence[int],
    e0s: Mapping[int, float] | Sequence[float],
    statistics: Statistics | None = None,
) -> ForceField:
    """The model of an architecture, with random weights; arguments and errors are those of its class."""
    return MODELS[type(architecture)](atomic_numbers, e0s, architecture, statistics)


def model_from_config(config: Mapping[str, Any]) -> ForceField:
    """The model that ``ForceField.config`` described, with random weights.

    Raises:
        InputError: an architecture that is unknown, keys that are missing, unknown or out of range.
    """
    known = {f"msmlff.models.{kind.__name__}": kind for kind in MODELS}
    architecture = dict(config.get("architecture") or {})
    target = architecture.pop("_target_", None)
    if target not in known:
        raise InputError(f"the architecture is {target!r}; this version knows {', '.join(known)}")
    try:
        statistics = Statistics.from_dict(config["statistics"])
        return build_model(known[target](**architecture), config["atomic_numbers"], config["e0s"], statistics)
    except (KeyError, TypeError) as error:
        raise InputError(f"the model's description is incomplete or has unknown keys: {error}") from error
