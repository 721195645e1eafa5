"""The observables of a trajectory by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msmlff.analysis.observe_motion import (
    observe_diffusion,
    observe_drift,
    observe_msd,
    observe_stability,
    observe_temperature,
    observe_vacf,
    observe_vdos,
)
from msmlff.analysis.observe_state import (
    moves,
    observe_density,
    observe_equation_of_state,
    observe_pressure,
)
from msmlff.analysis.observe_structure import (
    observe_adf,
    observe_coordination,
    observe_molecular_fraction,
    observe_order,
    observe_rdf,
)
from msmlff.analysis.observed import Observed, Subject
from msmlff.errors import InputError

OBSERVABLES: dict[str, Callable[[Subject], Observed]] = {
    "rdf": observe_rdf,
    "adf": observe_adf,
    "coordination": observe_coordination,
    "order": observe_order,
    "density": observe_density,
    "molecular_fraction": observe_molecular_fraction,
    "temperature": observe_temperature,
    "pressure": observe_pressure,
    "msd": observe_msd,
    "diffusion": observe_diffusion,
    "vacf": observe_vacf,
    "vdos": observe_vdos,
    "drift": observe_drift,
    "equation_of_state": observe_equation_of_state,
    "stability": observe_stability,
}


# what users look for here, and its name among the properties of ``msmlff relax``
OF_CRYSTALS = {
    "elastic": "elastic", "elastic_constants": "elastic", "phonon": "phonons", "phonons": "phonons",
}  # fmt: skip


def observe(
    subject: Subject, names: Sequence[str] | None = None
) -> tuple[dict[str, Observed], dict[str, str]]:
    """The observables asked for, or all that the trajectory allows.

    Args:
        names: keys of OBSERVABLES; None: all, and the reason of each that is not to be had. An equation of
            state of moving atoms is had by name alone.

    Returns:
        (observables by name, reasons by the name of those left out).

    Raises:
        InputError: an unknown name, or one asked for that the trajectory does not allow.
    """
    found, missing = {}, {}
    for name in check_names(names) if names is not None else OBSERVABLES:
        if names is None and name == "equation_of_state" and moves(subject.trajectory):
            missing[name] = (
                "frames with velocities or times are not relaxed, and their energies have a thermal part; "
                "if it is meant, write observables=[equation_of_state]"
            )
            continue
        try:
            found[name] = OBSERVABLES[name](subject)
        except InputError as error:
            if names is not None:
                raise
            missing[name] = str(error)
    return found, missing


def check_names(names: Sequence[str]) -> Sequence[str]:
    """The names, all known. Raises InputError for one that is not, with those there are."""
    unknown = [name for name in names if name not in OBSERVABLES]
    if unknown and unknown[0] in OF_CRYSTALS:
        raise InputError(
            f"{unknown[0]}: of a relaxed crystal, not of a trajectory; write msmlff relax model=RUN "
            f"system=FILE cell=full properties=[{OF_CRYSTALS[unknown[0]]}]"
        )
    if unknown or not names:
        what = f"there is no observable '{unknown[0]}'" if unknown else "no observables are named"
        raise InputError(f"{what}; write observables=[...] of {', '.join(OBSERVABLES)}")
    return names
