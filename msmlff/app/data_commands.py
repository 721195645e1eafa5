"""msmlff data ...: fetch published sets, describe files of frames."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from msmlff.data.card import DataCard, data_card_markdown
from msmlff.data.fetch import fetch_cheng2020
from msmlff.data.formats import LabelKeys, read_frames


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
    options = parser.parse_args(arguments)
    console = Console()
    if options.command == "fetch":
        folder = fetch_cheng2020(options.folder, source=options.source)
        console.print(
            f"written to {folder}; train on it with pool=dense_hydrogen_pbe pool.path={folder}",
            soft_wrap=True,
        )
        return 0
    for path in options.files:
        frames = list(read_frames(path, LabelKeys(group=options.group_key)))
        print(data_card_markdown(DataCard.of(path.name, frames)))
    return 0
