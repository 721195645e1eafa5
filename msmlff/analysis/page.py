"""Pages of sections: one file that opens from disk, without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from msmlff.analysis.figure_style import FigureBlock
from msmlff.analysis.html import page_template
from msmlff.analysis.report_blocks import Section
from msmlff.analysis.viewer import ViewerBlock, viewer_script


def write_page(path: Path, template: str, sections: Sequence[Section], **values: Any) -> Path:
    """Render a template that extends page.html.j2; the file appears whole or not at all.

    Args:
        path: the page.
        template: its name among the templates.
        sections: what the page is made of; the viewer of structures comes with them where one has structures.
        values: what the template asks for besides.
    """
    drawing = files("msmlff.analysis") / "assets" / "viewer.js"
    viewer = any(section.viewers for section in sections)
    page = page_template(template, figure_json=_figure_json, viewer_json=_viewer_json).render(
        sections=sections,
        plotly=Markup(get_plotlyjs()),
        viewer=Markup(viewer_script()) if viewer else None,
        viewer_drawing=Markup(drawing.read_text(encoding="utf-8")) if viewer else None,
        **values,
    )
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def _figure_json(block: FigureBlock) -> Markup:
    return _inside_script(block.figure.to_json() or "{}")


def _viewer_json(block: ViewerBlock) -> Markup:
    return _inside_script(json.dumps(block.data, ensure_ascii=False, separators=(",", ":")))


def _inside_script(text: str) -> Markup:
    """JSON that may stand inside a script element: no "<", so nothing in it can end the element."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
