"""Ways to make configurations."""

from msmlff.sampling.starts import molecular_lattice, random_packing, separate

__all__ = ["molecular_lattice", "random_packing", "separate"]
