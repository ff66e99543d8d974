"""The summary of a fit as markdown for the run's note, and as an HTML page for people who have no MLflow.

The page holds its style, its images and the script of its slider, so it opens offline, in the sandbox of MLflow's
artifact viewer and on paper; without scripts the slider is not shown. See templates/: report.html.j2, report.css and
slider.js.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomaly_vae.core.errors import escaped
from anomaly_vae.reporting.slider import Slider
from anomaly_vae.reporting.summary import Summary, choice_table

HALF_WIDTH = 950  # pixels; the page shows figures up to this width two in a line
NOTE_SETTINGS = 12  # changed settings listed in a note; the parameters of the run hold all


@dataclass(frozen=True)
class Figure:
    """A figure of a run. name: of its file. alt: a description for readers who cannot see it. png: a PNG file."""

    name: str
    title: str
    alt: str
    png: bytes

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int.from_bytes(self.png[16:20], "big")  # the first field of a PNG file's header chunk

    @property
    def png_base64(self) -> str:
        """The PNG file in base64, for a data URL."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Table:
    """A table of a run: rows of cells under column heads. name: of its file. text: what the table shows."""

    name: str
    title: str
    text: str
    heads: Sequence[str]
    cells: Sequence[Sequence[Any]]


def to_markdown(summary: Summary) -> str:
    """The run's note: verdict, facts, worries, notes, thresholds and the settings that differ from the defaults."""
    parts = [f"**{summary.verdict()}**", f"`{_plain(summary.data, code=True)}` is {_plain(summary.data_is)}."]
    parts.append(_markdown_table(("", ""), summary.facts()))
    if summary.worries:
        parts.append("### What to worry about\n\n" + "\n".join(f"- {_plain(worry)}" for worry in summary.worries))
    if summary.information:
        parts.append("### Notes\n\n" + "\n".join(f"- {_plain(note)}" for note in summary.information))
    parts.append("### Thresholds on the test data\n\n" + _markdown_table(*choice_table(summary.choices)))
    changed = [f"- `{key}` = `{_plain(str(value), code=True)}`" for key, value in (summary.changed or {}).items()]
    if len(changed) > NOTE_SETTINGS:
        changed[NOTE_SETTINGS:] = [f"- and {len(changed) - NOTE_SETTINGS} more: the parameters `changed.*`"]
    parts.append("### Changed from the defaults\n\n" + ("\n".join(changed) or "Nothing."))
    return "\n\n".join(parts)


def to_html(
    summary: Summary,
    title: str,
    figures: Sequence[Figure],
    tables: Sequence[Table],
    foot: str,
    slider: Slider | None = None,
) -> str:
    """The report as one HTML page. title: name of the run. foot: version and run, the last line of the page."""
    environment = Environment(
        loader=PackageLoader("anomaly_vae.reporting"),
        autoescape=True,
        finalize=lambda value: escaped(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        title=title,
        choices=choice_table(summary.choices),
        figures=figures,
        slider=slider,
        half_width=HALF_WIDTH,
        tables=tables,
        foot=foot,
    )


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _plain(text: str, code: bool = False) -> str:
    """Text of the data or the user as markdown that shows it: no HTML, no link, no picture. code: between backticks,
    where nothing but a backtick means anything."""
    text = escaped(" ".join(text.split()))
    return text.replace("`", "'") if code else text.replace("<", "&lt;").replace("[", "\\[")
