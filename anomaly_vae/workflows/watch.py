"""Watching a folder: what arrives in it is scored, files that are added and lines that are appended to them.

A file that has grown is scored again from its start, as far as its lines are complete, and its scores are replaced in
one step. So they are always those of one `score` of the whole file, to the bit: the last steps of a series change with
the ones that follow, and nothing but the data has to be remembered. What was scored is recorded after the outputs are
in place; who is killed in between does the same again. The folder is polled: a watchdog would miss what arrived while
nobody watched, and network file systems tell nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import BinaryIO

from anomaly_vae.core.callbacks import Say
from anomaly_vae.core.errors import AnomalyVAEError, DataError, UsageError
from anomaly_vae.core.files import scratch_folder
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.readers.base import plural
from anomaly_vae.detector.detector import Detector
from anomaly_vae.workflows.score import Options, score
from anomaly_vae.workflows.score_many import Part, claim, packed_manifest, record, scored_before

LINES = (".csv", ".tsv", ".txt", ".dat", ".jsonl", ".ndjson")  # files that are read as far as their lines are complete
PIECE = 1 << 20  # bytes copied at a time

State = tuple[int, int]  # size in bytes and time of the last change in ns


@dataclass
class Watched:
    """What is known of a file. looked: its state when it was last looked at. done: that at which it was scored, or
    found unreadable. told: what was said of it."""

    looked: State | None = None
    done: State | None = None
    told: set[str] = field(default_factory=set)


def watch(
    folder: str,
    detector: Detector,
    output: str,
    *,
    ending: str = "csv",
    options: Options | None = None,
    every: float = 2.0,
    once: bool = False,
    stop: Event | None = None,
    say: Say = lambda _: None,
) -> tuple[int, int]:
    """Scores what is in a folder and what arrives in it, until `stop` is set; (files scored, alarms in them).

    Of FILE the scores are in FILE.scores.`ending` below `output`, and of a series its events in FILE.events.`ending`.
    every: seconds between two looks. once: look once, and end. A file is read when two looks find it unchanged; one
    whose lines are appended at once, up to its last newline. What cannot be read is named once, and read again when it
    changes. Raises UsageError where `folder` is none, or `output` holds other scores.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder; watch takes a folder, and `score` a file")
    options, stop = options or Options(), stop or Event()
    detector.alarm_threshold(options.threshold)
    claim(output, packed_manifest(detector), options)
    recorded, known = scored_before(output), dict[str, Watched]()
    files = alarms = 0
    while not stop.is_set():
        for path in _files(Path(folder), Path(output)):
            if stop.is_set():
                break
            name = path.relative_to(folder).as_posix()
            about = known.setdefault(name, Watched())
            found = None
            with suppress(OSError):  # it has gone
                found = _look(path, name, about, recorded, detector, output, ending, options, once, say)
            if found is not None:
                files, alarms = files + 1, alarms + found
        if once or stop.wait(every):
            break
    return files, alarms


def _look(
    path: Path, name: str, about: Watched, recorded: dict[str, str], detector: Detector, output: str, ending: str,
    options: Options, once: bool, say: Say,
) -> int | None:  # fmt: skip
    """Scores a file if there is something new in it; the number of alarms in all of it."""
    stat = path.stat()
    state, before = (stat.st_size, stat.st_mtime_ns), about.looked
    about.looked = state
    by_lines = path.suffix.lower() in LINES
    if state == about.done or not (by_lines or once or state == before):
        return None

    def tell(line: str) -> None:
        if line not in about.told:
            about.told.add(line)
            say(f"{name}: {line}")

    scores, events = (Path(output) / f"{name}.{what}.{ending}" for what in ("scores", "events"))
    ordered = KINDS[detector.layout.kind].ordered
    here = replace(options, events=str(events) if ordered else None)
    try:
        with _complete(path, by_lines, tell) as (data, digest):
            if digest == recorded.get(name) and scores.is_file() and (events.is_file() or not ordered):
                about.done = state
                return None
            scores.parent.mkdir(parents=True, exist_ok=True)
            notes: list[str] = []
            rows, alarms = score(str(data), detector, output=str(scores), options=here, say=notes.append)
        record(output, name, digest)
    except AnomalyVAEError as error:
        if isinstance(error, DataError):  # it is as it is; a full disk may have space again
            about.done = state
        if "failed" not in about.told:
            about.told.add("failed")
            say(f"{name}: not scored: {str(error).removeprefix(f'{path}: ')}")
        return None
    recorded[name], about.done = digest, state
    about.told.discard("failed")
    for note in notes:
        if str(events) not in note:
            tell(note)
    say(f"{name}: {alarms} of {plural(rows, 'row')} at or above the threshold, in {scores}")
    return alarms


def _files(folder: Path, output: Path) -> Iterator[Path]:
    """The files below a folder, in order; hidden ones and those of `output` are none."""
    own = output.resolve()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(place) / f).resolve() != own)
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


@contextmanager
def _complete(path: Path, by_lines: bool, tell: Say) -> Iterator[tuple[Path, str]]:
    """(where it is read from, a digest of what is read) of a file; of one of lines a copy of those that are complete,
    which does not change while it is read."""
    if not by_lines:
        yield path, Part(path.name, str(path), "").state()
        return
    with scratch_folder() as scratch, open(path, "rb") as file:
        end = _last_newline(file)
        file.seek(0)
        copy, digest, left = scratch / path.name, hashlib.sha256(), end
        with open(copy, "wb") as out:
            while left and (piece := file.read(min(PIECE, left))):
                digest.update(piece)
                out.write(piece)
                left -= len(piece)
        if end < path.stat().st_size:
            tell("its last line has no newline yet, and is scored when it has")
        try:
            yield copy, digest.hexdigest()
        except AnomalyVAEError as error:
            raise type(error)(str(error).replace(str(copy), str(path))) from error


def _last_newline(file: BinaryIO) -> int:
    """The place behind the last newline of a file."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - PIECE)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
