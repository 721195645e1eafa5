"""comparison.md and comparison.html: what a comparison of selectors found, in one page."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msmlff.analysis.comparison_cells import read_study
from msmlff.analysis.comparison_method import METHOD, METHOD_TITLE
from msmlff.analysis.comparison_parts import Part, Picture, Table, build_parts, summary_part
from msmlff.analysis.html import page_template


def write_comparison(folder: str | Path) -> Path:
    """Write comparison.md, comparison.html and their pictures into the folder of a study.

    A study that still runs has a page of what there is.

    Returns:
        The path of comparison.html: one file that opens from disk, pictures inside.

    Raises:
        InputError: no such folder, or no cell in it.
    """
    study = read_study(folder)
    parts = [*build_parts(study, study.folder), Part(METHOD_TITLE, [*METHOD])]
    title = f"Selectors compared on {study.pool}"
    _write(study.folder / "comparison.md", f"# {title}\n\n" + _markdown(parts, study.folder))
    page = study.folder / "comparison.html"
    _write(page, _html(title, parts))
    return page


def study_page(folders: Mapping[str, str | Path], path: str | Path) -> Path:
    """Write one Markdown page of several pools: a summary, then each pool's page.

    The pictures are copied to ``pictures/`` beside it.

    Args:
        folders: name of the pool -> folder of its study.

    Raises:
        InputError: a folder without cells.
    """
    path = Path(path)
    studies = {name: read_study(folder) for name, folder in folders.items()}
    text = "# Selectors compared\n\n" + _markdown([summary_part(studies)], path.parent)
    for name, study in studies.items():
        parts = build_parts(study, study.folder)
        for part in parts:
            part.blocks = [_copied(block, path.parent, name) for block in part.blocks]
            part.title = f"{name}: {part.title[0].lower()}{part.title[1:]}"
        text += "\n" + _markdown(parts, path.parent)
    _write(path, text + "\n" + _markdown([Part(METHOD_TITLE, [*METHOD])], path.parent))
    return path


def _copied(block: Table | Picture, folder: Path, pool: str) -> Table | Picture:
    if isinstance(block, Table):
        return block
    name = "".join(letter if letter.isalnum() else "_" for letter in pool)
    target = folder / "pictures" / f"comparison_{name}_{block.file.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(block.file, target)
    return replace(block, file=target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# --- the two forms


def _markdown(parts: Sequence[Part], folder: Path) -> str:
    text = []
    for part in parts:
        text.append(f"## {part.title}\n")
        text += [f"{sentence}\n" for sentence in part.sentences]
        for block in part.blocks:
            if isinstance(block, Picture):
                file = Path(os.path.relpath(block.file, folder)).as_posix()
                text.append(f"![{block.title}]({file})\n\n*{block.caption}*\n")
                continue
            lines = [block.headings, ["---"] * len(block.headings), *block.rows]
            text.append(f"**{block.title}**\n")
            text.append("".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines))
            if block.caption:
                text.append(f"{block.caption}\n")
    return "\n".join(text)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _html(title: str, parts: Sequence[Part]) -> str:
    template = page_template("comparison.html.j2", embedded=_embedded, bold_lead=_bold_lead)
    return template.render(title=title, parts=parts)


def _embedded(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _bold_lead(sentence: str) -> tuple[str, str]:
    """("lead", "rest") of "**lead** rest"; no lead: ("", sentence)."""
    if not sentence.startswith("**"):
        return "", sentence
    lead, _, rest = sentence[2:].partition("**")
    return lead, rest
