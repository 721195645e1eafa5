"""The operations that take the time, one function each.

``reference`` holds them in plain PyTorch. The functions exported here are derived by hand to second order, in
pieces that stay in the processor's cache; they equal the reference to rounding.
"""

from msmlff.nn.ops.contraction import symmetric_contraction
from msmlff.nn.ops.neighbor_sum import convolution
from msmlff.nn.ops.perceptron import radial_network
from msmlff.nn.ops.species_sum import species_convolution
from msmlff.nn.ops.types import MonomialTable, Path

__all__ = [
    "MonomialTable",
    "Path",
    "convolution",
    "radial_network",
    "species_convolution",
    "symmetric_contraction",
]
