"""The operations that take the time, one function each, and their backends.

``reference`` says what they compute; the other backends equal it to rounding, with their first and second
derivatives. Which one is used: ``backends``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from msmlff.nn.ops.backends import (
    available_backends,
    backend_for,
    check_backend,
    kernels,
    set_backend,
    use_backend,
)
from msmlff.nn.ops.types import MonomialTable, Path

if TYPE_CHECKING:
    from msmlff.nn.edges import ScaleEdges
    from msmlff.nn.ops.maps import LinearMaps
    from msmlff.nn.species import SpeciesGroups

__all__ = [
    "MonomialTable",
    "Path",
    "available_backends",
    "check_backend",
    "convolution",
    "gate",
    "linear_maps",
    "radial_network",
    "set_backend",
    "species_convolution",
    "symmetric_contraction",
    "use_backend",
]


def convolution(
    features: Tensor,
    phi: Tensor,
    weight: Tensor,
    couplings: Sequence[Tensor],
    paths: Sequence[Path],
    edges: ScaleEdges,
) -> list[Tensor]:
    """See ``reference.convolution``."""
    function = kernels(edges.backend).convolution
    result: list[Tensor] = function(features, phi, weight, couplings, paths, edges)
    return result


def species_convolution(
    table: Tensor, species: Tensor, phi: Tensor, weight: Tensor, paths: Sequence[Path], edges: ScaleEdges
) -> list[Tensor]:
    """See ``reference.species_convolution``."""
    function = kernels(edges.backend).species_convolution
    result: list[Tensor] = function(table, species, phi, weight, paths, edges)
    return result


def radial_network(x: Tensor, weights: list[Tensor]) -> Tensor:
    """See ``reference.radial_network``."""
    result: Tensor = kernels(backend_for(x.device).name).radial_network(x, weights)
    return result


def symmetric_contraction(
    features: Tensor,
    weights: Sequence[Tensor],
    couplings: Sequence[Tensor],
    table: MonomialTable,
    groups: SpeciesGroups,
) -> Tensor:
    """See ``reference.symmetric_contraction``."""
    function = kernels(backend_for(features.device).name).symmetric_contraction
    result: Tensor = function(features, weights, couplings, table, groups)
    return result


def linear_maps(
    inputs: Sequence[Tensor], weights: Sequence[Tensor], spec: LinearMaps, groups: SpeciesGroups | None = None
) -> Tensor:
    """The sum of maps of features.

    Args:
        inputs: each [atoms, rows, channels]; the maps say which rows are read.
        weights: each [channels in, channels out], or [species, degrees, channels in, channels out].
        spec: the maps.
        groups: the atoms of each species; not read where no weights are by species.

    Returns:
        [atoms, spec.rows, spec.channels].
    """
    function = kernels(backend_for(inputs[0].device).name).linear_maps
    result: Tensor = function(inputs, weights, spec, groups)
    return result


def gate(features: Tensor, l_max: int) -> Tensor:
    """See ``nn.gate.gate``."""
    result: Tensor = kernels(backend_for(features.device).name).gate(features, l_max)
    return result
