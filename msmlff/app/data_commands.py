"""msmlff data ...: fetch published sets, describe and check files of frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.calculators.calculator import CalculatorError
from rich.console import Console

from msmlff.data.card import DataCard, data_card_markdown
from msmlff.data.door import DEFECTS, Door
from msmlff.data.fetch import fetch_cheng2020
from msmlff.data.formats import LabelKeys, read_frames
from msmlff.data.label_checks import check_forces_against_engine
from msmlff.errors import InputError


def data_command(arguments: list[str]) -> int:
    """Run ``msmlff data`` with its arguments; returns the exit code."""
    parser = argparse.ArgumentParser(prog="msmlff data", description="Published data sets and data cards.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download, verify and convert a published data set")
    fetch.add_argument("name", choices=["cheng2020"], help="PBE dense hydrogen, Nature 585, 217 (2020)")
    fetch.add_argument("folder", type=Path, nargs="?", default=Path("data/dense_hydrogen_pbe"))
    fetch.add_argument("--source", help="a downloaded archive (path or URL) instead of the published one")
    card = commands.add_parser("card", help="what is in files of frames: counts, composition, labels")
    card.add_argument("files", type=Path, nargs="+")
    card.add_argument("--group-key", default=None, help="info key that names the state point of a frame")
    check = commands.add_parser("check", help="the checks of the door; forces against an engine's energies")
    check.add_argument("files", type=Path, nargs="+")
    check.add_argument("--allow", nargs="+", default=[], choices=DEFECTS, help="defects only counted")
    check.add_argument(
        "--drop", nargs="+", default=[], choices=DEFECTS, help="defects whose frames are left out"
    )
    check.add_argument(
        "--require", nargs="+", default=["energy", "forces"], choices=["energy", "forces", "stress"]
    )
    check.add_argument("--group-key", default=None, help="info key that names the trajectory of a frame")
    check.add_argument("--engine", choices=["GFN1-xTB", "GFN2-xTB"], help="the labels' own level, by tblite")
    check.add_argument("--electronic-temperature", type=float, default=300.0, help="K, of the engine")
    check.add_argument("--frames", type=int, default=5, help="so many of a file are compared with the engine")
    options = parser.parse_args(arguments)
    console = Console()
    if options.command == "fetch":
        folder = fetch_cheng2020(options.folder, source=options.source)
        console.print(
            f"written to {folder}; train on it with pool=dense_hydrogen_pbe pool.path={folder}",
            soft_wrap=True,
        )
        return 0
    if options.command == "check":
        _check(options, console)
        return 0
    for path in options.files:
        frames = list(read_frames(path, LabelKeys(group=options.group_key)))
        print(data_card_markdown(DataCard.of(path.name, frames)))
    return 0


def _check(options: argparse.Namespace, console: Console) -> None:
    """One line a file; InputError at the first defect."""
    door = Door(
        allow=tuple(options.allow), drop=tuple(options.drop), require=tuple(dict.fromkeys(options.require))
    )
    for path in options.files:
        frames = list(read_frames(path, LabelKeys(group=options.group_key)))
        console.print(f"{path}: {door.check(frames).summary}", soft_wrap=True, highlight=False)
        if options.engine is None:
            continue
        from tblite.ase import TBLite

        engine = TBLite(
            method=options.engine, electronic_temperature=options.electronic_temperature, verbosity=0
        )
        try:
            checks = check_forces_against_engine(frames, engine, options.frames)
        except CalculatorError as error:
            raise InputError(f"{path}: {options.engine} could not calculate a frame: {error}") from error
        for found in checks:
            console.print(
                f"  {found.source}: force along a random direction {found.labelled:.4f} eV/Å, "
                f"{options.engine}'s energies say {found.differences:.4f}",
                soft_wrap=True,
                highlight=False,
            )
