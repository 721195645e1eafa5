"""A trajectory: frames of the same atoms in time order, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from ase.data import atomic_masses
from ase.units import fs, kB

from msmlff.data.configuration import Configuration
from msmlff.data.neighbors import minimum_image
from msmlff.errors import InputError

UNWRAPPED = "unwrapped"  # in the info of frames that ``msmlff simulate`` wrote


@dataclass(frozen=True)
class Trajectory:
    """Frames of the same atoms, equally spaced in time.

    Attributes:
        numbers: [atoms] int64.
        positions: [frames, atoms, 3] Å, wrapped or not.
        cell: [frames, 3, 3] Å.
        pbc: [3] bool.
        interval_fs: time from frame to frame; None where it is not known.
        velocities: [frames, atoms, 3] Å/fs, or None.
        energy: [frames] eV, potential energy, NaN where it is not known.
        stress: [frames, 3, 3] eV/Å³, of the potential alone, NaN where it is not known.
        temperature: [frames] K, kinetic, as the simulation stored it, with its degrees of freedom, or None.
        continuous: the positions are known not to jump at the cell's faces, as those of ``msmlff simulate``.
        stored_masses: [atoms] atomic mass units, as of isotopes; None: the standard ones of the elements.
        source: where it came from, for messages.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    interval_fs: float | None = None
    velocities: np.ndarray | None = None
    energy: np.ndarray | None = None
    stress: np.ndarray | None = None
    source: str = ""
    temperature: np.ndarray | None = None
    continuous: bool = False
    stored_masses: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, kept: slice) -> Trajectory:
        """A part of the frames; a step stretches the interval."""
        per_frame = {"positions", "cell", "velocities", "energy", "stress", "temperature"}
        parts = {
            f.name: getattr(self, f.name)[kept]
            for f in fields(self)
            if f.name in per_frame and getattr(self, f.name) is not None
        }
        step = abs(kept.step or 1)
        interval = None if self.interval_fs is None else self.interval_fs * step
        return replace(self, interval_fs=interval, **parts)

    @property
    def masses(self) -> np.ndarray:
        """[atoms] atomic mass units, those that were stored or the standard ones."""
        return atomic_masses[self.numbers] if self.stored_masses is None else self.stored_masses

    @property
    def volume(self) -> np.ndarray:
        """[frames] Å³."""
        return np.abs(np.linalg.det(self.cell))

    @property
    def time_fs(self) -> np.ndarray:
        """[frames] fs since the first frame."""
        return np.arange(len(self)) * self.need_interval("time")

    def frames(self) -> list[Configuration]:
        """The frames one by one, with energies and stresses as labels."""
        return [
            Configuration(
                self.numbers,
                self.positions[i],
                self.cell[i],
                self.pbc,
                energy=float("nan") if self.energy is None else float(self.energy[i]),
                stress=None if self.stress is None or np.isnan(self.stress[i]).any() else self.stress[i],
                source=f"{self.source}:{i}" if self.source else "",
            )
            for i in range(len(self))
        ]

    def need_interval(self, what: str) -> float:
        """The time between frames in fs. Raises InputError where it is not known."""
        if self.interval_fs is None:
            raise InputError(
                f"{what}: {self.source or 'the trajectory'} does not say how far apart its frames are; write "
                "interval_fs=..., the fs from one stored frame to the next"
            )
        return self.interval_fs

    def need_velocities(self, what: str) -> np.ndarray:
        """[frames, atoms, 3] Å/fs. Raises InputError where there are none."""
        if self.velocities is None:
            raise InputError(
                f"{what}: {self.source or 'the trajectory'} holds no velocities; store them (extended XYZ: a "
                "column momenta or velocities), or leave this observable out"
            )
        return self.velocities


def from_frames(
    frames: Sequence[Configuration],
    interval_fs: float | None = None,
    velocities: Sequence[np.ndarray] | None = None,
    source: str = "",
    masses: Sequence[np.ndarray] | None = None,
) -> Trajectory:
    """A trajectory of frames that hold the same atoms in the same order.

    Args:
        frames: at least one; energies and stresses are kept where frames have them, and of the info the
            ``temperature_K`` and ``unwrapped`` that ``msmlff simulate`` writes, where all have them.
        interval_fs: time from frame to frame; None: from the frames' info ``time_fs`` where all have it.
        velocities: [atoms, 3] Å/fs of each frame.
        source: for messages.
        masses: [atoms] atomic mass units of each frame; None: the standard ones of the elements.

    Raises:
        InputError: no frames, other atoms, masses or periodic directions in a frame, uneven times.
    """
    if not len(frames):
        raise InputError(f"{source or 'the trajectory'} holds no frames")
    first = frames[0]
    for i, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, first.numbers) or not np.array_equal(frame.pbc, first.pbc):
            raise InputError(
                f"{frame.source or f'frame {i}'} holds other atoms (or periodic directions) than the first "
                "frame: a trajectory has the same atoms in the same order throughout; split the file"
            )
    if interval_fs is None:
        interval_fs = spacing([frame.info.get("time_fs") for frame in frames], source)
    stress = [np.full((3, 3), np.nan) if f.stress is None else f.stress for f in frames]
    energy = np.array([f.energy for f in frames])
    return Trajectory(
        numbers=np.asarray(first.numbers),
        positions=np.stack([f.positions for f in frames]),
        cell=np.stack([f.cell for f in frames]),
        pbc=np.asarray(first.pbc, dtype=bool),
        interval_fs=interval_fs,
        velocities=None if velocities is None else np.stack(list(velocities)),
        energy=energy if np.isfinite(energy).any() else None,
        stress=np.stack(stress) if any(f.stress is not None for f in frames) else None,
        source=source,
        temperature=_stored_temperature(frames),
        continuous=all(str(frame.info.get(UNWRAPPED)) == "True" for frame in frames),  # also NumPy's
        stored_masses=None if masses is None else _one_for_all(masses, source),
    )


def _one_for_all(masses: Sequence[np.ndarray], source: str) -> np.ndarray:
    """The masses that all frames have; InputError where they differ."""
    first = np.asarray(masses[0], dtype=np.float64)
    for i, own in enumerate(masses):
        if not np.allclose(own, first):
            raise InputError(
                f"{source or 'the trajectory'}: frame {i} has other masses than the first frame: a "
                "trajectory has the same atoms in the same order throughout; split the file"
            )
    return first


def _stored_temperature(frames: Sequence[Configuration]) -> np.ndarray | None:
    stored = [frame.info.get("temperature_K") for frame in frames]
    if not all(isinstance(kelvin, int | float) for kelvin in stored):
        return None
    return np.array(stored, dtype=np.float64)


def spacing(times: Sequence[object], source: str) -> float | None:
    """The spacing of equally spaced times in fs; None where not every frame has one."""
    if len(times) < 2 or not all(isinstance(t, int | float) for t in times):
        return None
    steps = np.diff(np.array(times, dtype=np.float64))
    if steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps.mean():
        raise InputError(
            f"{source or 'the trajectory'}: frames are {steps.min():g} to {steps.max():g} fs apart "
            "(time_fs); store them at equal intervals, or write interval_fs=... if the times are wrong"
        )
    return float(steps.mean())


def unwrapped(trajectory: Trajectory) -> np.ndarray:
    """[frames, atoms, 3] Å, paths that do not jump when an atom leaves the cell on one side.

    Each step is that of the wrapped positions to the nearest image in the later cell, which conserves
    diffusion also where the cell breathes (von Bülow, Bullerjahn, Hummer, J. Chem. Phys. 153, 021101 (2020),
    eq. 5). Paths that are known to be continuous are returned as they are in a cell that stays, and in
    another one freed of the lattice's own growth times the whole lattice vectors an atom is away. Others that
    are unwrapped already stay as they are as long as no atom moves half a cell between frames
    (``longest_step``). Distances between atoms are not kept in a cell that breathes: see
    ``stability.bond_lengths``.
    """
    positions, cell = trajectory.positions, trajectory.cell
    if not trajectory.pbc.any() or len(trajectory) < 2:
        return positions
    steps = np.diff(positions, axis=0)
    if stays_continuous(trajectory):
        growth = np.diff(cell, axis=0)
        if not growth.any():
            return positions
        away = np.floor(positions[:-1] @ np.linalg.pinv(cell[:-1])) * trajectory.pbc
        steps -= away @ growth
    else:
        for i, step in enumerate(steps):
            steps[i] = minimum_image(step, cell[i + 1], trajectory.pbc)
    return np.concatenate([positions[:1], positions[0] + np.cumsum(steps, axis=0)])


def longest_step(trajectory: Trajectory) -> float:
    """How far an atom moves between two frames at the most, in lattice vectors of a periodic direction.

    At 0.5 the step cannot be told from the one to the next image, and ``unwrapped`` may have taken the wrong
    one; 0 where the paths are known to be continuous.
    """
    if not trajectory.pbc.any() or len(trajectory) < 2 or stays_continuous(trajectory):
        return 0.0
    steps = np.diff(unwrapped(trajectory), axis=0)
    return float(np.abs(steps @ np.linalg.pinv(trajectory.cell[1:]))[..., trajectory.pbc].max())


def stays_continuous(trajectory: Trajectory) -> bool:
    """Whether paths are marked as continuous and are.

    Not where every atom of every frame lies in the cell: a program that wrapped them kept the mark.
    """
    if not trajectory.continuous:
        return False
    places = (trajectory.positions @ np.linalg.pinv(trajectory.cell))[..., trajectory.pbc]
    return bool((places < -1e-6).any() or (places > 1.0 + 1e-6).any())


def temperatures(trajectory: Trajectory) -> np.ndarray:
    """[frames] K, kinetic temperature, 3 degrees of freedom an atom: that of the ideal part of the pressure.

    A simulation whose motion as a whole is taken out has fewer: see ``Trajectory.temperature``.

    Raises:
        InputError: there are no velocities.
    """
    velocities = trajectory.need_velocities("temperature")
    per_frame = np.einsum("a,fai->f", trajectory.masses, velocities**2) / fs**2
    return np.asarray(per_frame / (3 * len(trajectory.numbers) * kB))
