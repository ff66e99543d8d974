"""A summary as markdown for the run's note, and as one HTML file for people who have no MLflow.

The file holds everything it shows and no script, so it opens offline, in the sandbox of MLflow's artifact viewer and
on paper.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from anomaly_vae.reporting.summary import Choice, Summary

HALF = 950  # pixels; two figures of this width stand side by side
NOTE_SETTINGS = 12  # changed settings told in a note; the parameters of the run hold all


@dataclass(frozen=True)
class Figure:
    """A figure of a run. name: of its file. alt: what it shows, for whoever cannot see it."""

    name: str
    title: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Table:
    """A table of a run: rows of cells under their heads. name: of its file."""

    name: str
    title: str
    text: str
    heads: Sequence[str]
    cells: Sequence[Sequence[Any]]


def to_markdown(summary: Summary) -> str:
    """The run's note: verdict, facts, thresholds, worries and what differs from the defaults."""
    parts = [f"**{summary.verdict()}**", f"`{summary.data}` is {summary.data_is}."]
    parts.append(_md_table(("", ""), summary.facts()))
    if summary.worries:
        parts.append("### What to worry about\n\n" + "\n".join(f"- {worry}" for worry in summary.worries))
    parts.append("### Thresholds on the test data\n\n" + _md_table(CHOICE_HEADS, map(_choice, summary.choices)))
    changed = [f"- `{key}` = `{value}`" for key, value in summary.changed.items()]
    if len(changed) > NOTE_SETTINGS:
        changed[NOTE_SETTINGS:] = [f"- and {len(changed) - NOTE_SETTINGS} more: the parameters `changed.*`"]
    parts.append("### Changed from the defaults\n\n" + ("\n".join(changed) or "Nothing."))
    return "\n\n".join(parts)


CHOICE_HEADS = ("policy", "threshold (nats)", "recall", "false-alarm rate", "alarms of all rows")


def _choice(choice: Choice) -> tuple[str, ...]:
    policy = f"{choice.policy} (chosen)" if choice.chosen else choice.policy
    rates = (choice.recall, choice.false_alarm_rate, choice.alarm_rate)
    return (policy, f"{choice.threshold:.6g}", *("not known" if rate is None else f"{rate:.2%}" for rate in rates))


def _md_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def to_html(summary: Summary, title: str, pictures: Sequence[Figure], tables: Sequence[Table], foot: str) -> str:
    """The whole story as one HTML page. title: name of the run. foot: where it comes from."""
    worries = "".join(f"<li>{escape(worry)}</li>" for worry in summary.worries)
    changed = [(key, str(value)) for key, value in summary.changed.items()]
    body = [
        f"<header><h1>{escape(title)}</h1><p class=verdict>{escape(summary.verdict())}</p>",
        f"<p><code>{escape(summary.data)}</code> is {escape(summary.data_is)}.</p></header>",
        _section("What it came to", _facts(summary.facts())),
        _section("What to worry about", f"<ul>{worries}</ul>" if worries else "<p>Nothing was found.</p>"),
        _section("Thresholds on the test data", _table(CHOICE_HEADS, [_choice(c) for c in summary.choices])),
        _section("Figures", f"<div class=figures>{''.join(map(_figure, pictures))}</div>"),
        *(_section(table.title, f"<p>{escape(table.text)}</p>" + _table(table.heads, table.cells)) for table in tables),
        _section("Changed from the defaults", _facts(changed) if changed else "<p>Nothing.</p>"),
        f"<footer>{escape(foot)}</footer>",
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
{chr(10).join(body)}
</main>
</body>
</html>
"""


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"<table class=facts><tbody>{rows}</tbody></table>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"<td class=number>{value:.6g}</td>"
    return f"<td>{escape(str(value))}</td>"


def _figure(picture: Figure) -> str:
    data = base64.b64encode(picture.png).decode()
    width = int.from_bytes(picture.png[16:20], "big")  # pixels: the first field of a PNG file
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
    place = "half" if width <= HALF else "whole"
    return f"<figure class={place}>{image}<figcaption>{escape(picture.title)}</figcaption></figure>"


STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #2b2f36; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px; }
header, section { background: #fff; border: 1px solid #e6e8eb; border-radius: 8px; }
header, section { padding: 16px 24px; margin: 0 0 16px; }
h1 { font-size: 24px; margin: 4px 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 4px 0 12px; }
.verdict { font-size: 18px; color: #004f7c; margin: 8px 0; }
code { background: #f0f2f4; border-radius: 4px; padding: 1px 5px; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #eef0f2; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; }
.facts th { font-weight: 600; white-space: nowrap; }
.wide { overflow-x: auto; }
li { margin: 4px 0; }
.figures { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
figure { margin: 0; break-inside: avoid; }
figure.half { flex: 0 1 calc(50% - 10px); min-width: 340px; }
figure.whole { flex: 0 0 100%; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #5b626c; font-size: 13px; }
footer { color: #5b626c; font-size: 13px; padding: 0 24px; overflow-wrap: anywhere; }
@media print {
  body { background: #fff; font-size: 11px; }
  main { max-width: none; padding: 0; }
  header, section { border: 0; padding: 0; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  .wide { overflow: visible; }
}
"""
