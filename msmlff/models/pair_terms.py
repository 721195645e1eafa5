"""Energies of pairs that any model may have beside its network: core repulsion and dispersion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from msmlff.errors import InputError
from msmlff.nn.dispersion import D3, SWITCH, D3Table
from msmlff.nn.zbl import ZBL


@dataclass(frozen=True, kw_only=True)
class Dispersion:
    """Keys of model.dispersion: D3 with Becke-Johnson damping, as ``D3`` computes it.

    Attributes:
        functional: whose damping is taken from tad-dftd3, as pbe; null: s8, a1 and a2 are given.
        cutoff: Å, of the pairs; neighbours are searched up to it.
        s6: factor of the r^-6 term; 1 where it is null.
        s8: factor of the r^-8 term.
        a1, a2: of the damping length a1 R + a2; a2 in bohr, as it is published.
        table: what was looked up for the model's species, by ``for_species``; it is kept in the model's file,
            so that reading the file takes no further package and its numbers stay.

    Raises:
        InputError: neither a functional nor all of s8, a1, a2, or both; a value out of its range.
    """

    functional: str | None = None
    cutoff: float = 12.0
    s6: float | None = None
    s8: float | None = None
    a1: float | None = None
    a2: float | None = None
    table: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        key = "model.dispersion"
        if not is_number(self.cutoff) or not self.cutoff > SWITCH:
            raise InputError(f"{key}.cutoff is {self.cutoff!r}; write a number of Å above {SWITCH:g}")
        given = {name: getattr(self, name) for name in ("s6", "s8", "a1", "a2")}
        for name, value in given.items():
            if value is not None and not is_number(value):
                raise InputError(f"{key}.{name} is {value!r}; write a number")
        if self.functional is None:
            missing = [name for name in ("s8", "a1", "a2") if given[name] is None]
            if missing:
                raise InputError(
                    f"{key} has no {', '.join(missing)}: write them, or a functional, as "
                    "model.dispersion={functional: pbe}"
                )
        elif not isinstance(self.functional, str):
            raise InputError(f"{key}.functional is {self.functional!r}; write its name, as pbe")
        elif any(value is not None for value in given.values()):
            raise InputError(f"{key} has a functional and s6, s8, a1 or a2: write the one or the others")

    def for_species(self, atomic_numbers: Sequence[int]) -> Dispersion:
        """The same with its table for these species.

        Raises:
            InputError: tad-dftd3 is not installed, or knows the functional or a species not.
        """
        if self.table is not None:
            if len(self.table["radii"]) != len(atomic_numbers):
                raise InputError(
                    f"model.dispersion.table has {len(self.table['radii'])} species, the model "
                    f"{len(atomic_numbers)}: leave it out, it is looked up"
                )
            return self
        return replace(self, table=asdict(_look_up(self, atomic_numbers)))


def pair_terms(zbl: bool, dispersion: Dispersion | None, atomic_numbers: Sequence[int]) -> list[ZBL | D3]:
    """The chosen terms; each has ``cutoff`` in Å and maps (vectors, batch) to energies of atoms.

    Args:
        zbl: whether to have the repulsion of the cores.
        dispersion: with its table, or None.
        atomic_numbers: species of the model.
    """
    terms: list[ZBL | D3] = [ZBL(atomic_numbers)] if zbl else []
    if dispersion is not None:
        assert dispersion.table is not None
        terms.append(D3(D3Table(**dispersion.table), dispersion.cutoff))
    return terms


def is_number(value: Any) -> bool:
    """Whether a value of a configuration is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _look_up(chosen: Dispersion, atomic_numbers: Sequence[int]) -> D3Table:
    try:
        import tad_dftd3
        import torch
        from tad_mctc.data.radii import COV_D3
    except ImportError as error:
        raise InputError(
            f"model.dispersion takes its coefficients from tad-dftd3, which cannot be imported ({error}): "
            "pip install 'msmlff[dispersion]'"
        ) from error
    damping = {name: getattr(chosen, name) for name in ("s6", "s8", "a1", "a2")}
    if chosen.functional is not None:
        try:
            damping = tad_dftd3.param.get_functional_params(
                chosen.functional, damping="bj", dtype=torch.float64
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"model.dispersion.functional is {chosen.functional!r}, for which tad-dftd3 has no "
                f"Becke-Johnson damping ({error}): write another, or s8, a1 and a2"
            ) from None
    reference = tad_dftd3.reference.Reference(dtype=torch.float64)
    unknown = [z for z in atomic_numbers if z >= len(reference.cn)]
    if unknown:
        raise InputError(f"model.dispersion: D3 knows no atomic numbers {unknown}: leave it null")
    species = torch.tensor(list(atomic_numbers))
    used = int((reference.cn[species] >= 0).sum(dim=1).max())
    return D3Table(
        s6=float(1.0 if damping["s6"] is None else damping["s6"]),
        s8=float(damping["s8"]),
        a1=float(damping["a1"]),
        a2=float(damping["a2"]),
        coordination=reference.cn[species, :used].tolist(),
        c6=reference.c6[species][:, species, :used, :used].tolist(),
        radii=COV_D3(dtype=torch.float64)[species].tolist(),
        r4r2=tad_dftd3.data.R4R2(dtype=torch.float64)[species].tolist(),
    )
