"""Scoring many files: one file of scores for each, by one process or over a cluster, going on where it was stopped."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_vae.core.callbacks import Progress, Say
from anomaly_vae.core.engines import Engine, map_items
from anomaly_vae.core.errors import AnomalyVAEError, DataError, UsageError
from anomaly_vae.core.files import explained, make_folder, replacing, scratch_folder
from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.readers.base import plural, stem
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.likelihood import elbo_measure
from anomaly_vae.detector.storage import MANIFEST
from anomaly_vae.workflows.score import Options, score

JOB, SCORED = (
    "_job.json",
    "_scored.jsonl",
)  # in the folder of the scores; programs that read a folder as one table pass over names with _ or .


@dataclass(frozen=True)
class Part:
    """One file, or folder of pictures, and where its scores go. name: of the file below what all have in common."""

    name: str
    path: str
    output: str

    def state(self) -> str:
        """Size and time of what is to be scored, of a folder a hash of those of all its files: another state is other
        data, be it newer or older."""
        path = Path(self.path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(file.relative_to(path.parent).as_posix(), file.stat()) for file in files]
        lines = [f"{name} {found.st_size} {found.st_mtime_ns}" for name, found in stats]
        return lines[0].rpartition("/")[2] if path.is_file() else hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """What came of one part. failed: why it has no scores."""

    rows: int = 0
    alarms: int = 0
    notes: tuple[str, ...] = ()
    failed: str = ""


def score_many(
    pattern: str,
    detector: Detector,
    folder: str,
    *,
    engine: Engine = "local",
    ending: str = "parquet",
    options: Options | None = None,
    device: str = "auto",
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> tuple[int, int]:
    """Scores every file that matches `pattern` into a file of its own in `folder`; (rows, alarms) of this call.

    A file of scores holds what `workflows.score` gives of its file alone, to the bit, after a column `file` with the
    name; ids count within the file. Parts that are there are left as they are, unless their file changed since, so the
    same call goes on where an earlier one was stopped. A file that cannot be scored does not keep the others from it.
    Raises UsageError where `folder` holds scores of another detector or with other options, DataError where nothing
    matches, and at the end where files could not be scored.
    """
    parts = partitions(pattern, folder, ending, pictures=KINDS[detector.layout.kind].folders)
    options = options or Options()
    if options.elbo:
        elbo_measure(detector)
    detector.alarm_threshold(options.threshold)
    packed = _packed(detector)
    claim(folder, packed[MANIFEST], options)
    scored, states = scored_before(folder), {part.name: part.state() for part in parts}
    todo = [part for part in parts if scored.get(part.name) != states[part.name] or not Path(part.output).is_file()]
    say(f"{plural(len(parts), 'file')}, {len(parts) - len(todo)} of them scored before")
    rows = alarms = 0
    failed: list[str] = []
    for number, (part, done) in enumerate(map_items(engine, partial(_scorer, packed, device, options), todo)):
        rows, alarms = rows + done.rows, alarms + done.alarms
        if done.failed:
            failed.append(done.failed)
        else:
            record(folder, part.name, states[part.name])
        for note in done.notes:
            say(f"{part.name}: {note}")
        progress("files", number + 1, len(todo))
    if failed:
        raise DataError(
            f"{len(failed)} of {plural(len(parts), 'file')} could not be scored, the first: {failed[0]}; the scores of"
            f" the others are in {folder}, and the same command goes on with what is missing"
        )
    return rows, alarms


def partitions(pattern: str, folder: str, ending: str, pictures: bool = False) -> list[Part]:
    """The files that match, in order; of `pictures` folders, and the tables that list them.

    Hidden files and what lies in `folder` itself are no data. Raises DataError where nothing is left, UsageError where
    the scores of two files would have one name.
    """
    own = Path(folder).resolve()
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))] or [Path(glob.escape(pattern))]
    found = [path for path in found if own not in (path.resolve(), *path.resolve().parents)]
    found = [path for path in found if path.is_file() or (pictures and path.is_dir())]
    if not found:
        raise DataError(f"{pattern}: no {'folder' if pictures else 'file'} matches")
    fixed = Path(*_until_magic(Path(pattern)))
    root = fixed if len(found) > 1 or glob.has_magic(pattern) else fixed.parent
    parts: dict[str, Part] = {}
    for path in found:
        below = path.relative_to(root)
        output = str(Path(folder) / below.parent / f"{path.name if path.is_dir() else stem(path)}.{ending}")
        if output in parts:
            raise UsageError(f"{parts[output].path} and {path} would both be scored into {output}; rename one of them")
        parts[output] = Part(below.as_posix(), str(path.absolute()), str(Path(output).absolute()))
    return list(parts.values())


def _until_magic(pattern: Path) -> list[str]:
    """The folders of a pattern that are the same for all that matches."""
    fixed: list[str] = []
    for piece in pattern.parts:
        if glob.has_magic(piece):
            break
        fixed.append(piece)
    return fixed


def claim(folder: str, manifest: bytes, options: Options) -> None:
    """Makes the folder one of this detector's scores with these options. Raises UsageError where it is another's."""
    asked = {"detector": hashlib.sha256(manifest).hexdigest(), **asdict(options)}
    del asked["max_pixels"]  # no score depends on it
    make_folder(folder)
    job = Path(folder) / JOB
    if not job.is_file():
        if any(Path(folder).iterdir()):
            raise UsageError(f"{folder}: holds something else than scores; name a new folder")
        with replacing(job) as beside:
            beside.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    elif {k: v for k, v in asdict(Options()).items() if k in asked} | _job(
        job
    ) != asked:  # an older job lacks newer options
        raise UsageError(f"{folder}: holds scores of another detector or with other options; name a new folder")


def scored_before(folder: str) -> dict[str, str]:
    """The state of each part when its scores were written, by its name. A line that a full disk cut off is none."""
    path = Path(folder) / SCORED
    states: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            states |= json.loads(line)
    return states


def record(folder: str, name: str, state: str) -> None:
    with explained(Path(folder)), open(Path(folder) / SCORED, "a", encoding="utf-8") as file:
        file.write(json.dumps({name: state}) + "\n")


def _job(path: Path) -> dict[str, Any]:
    """What a folder of scores was made with. Raises UsageError where that cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read, so nobody knows what was scored here; name a new folder") from error


def packed_manifest(detector: Detector) -> bytes:
    """The manifest of a detector's folder, which tells it from others."""
    return _packed(detector)[MANIFEST]


def _packed(detector: Detector) -> dict[str, bytes]:
    """The files of a detector, to travel to other processes and machines."""
    with scratch_folder() as scratch:
        detector.save(Path(scratch) / "detector")
        return {path.name: path.read_bytes() for path in sorted((Path(scratch) / "detector").iterdir())}


def _scorer(files: dict[str, bytes], device: str, options: Options) -> Callable[[Part], Done]:
    """Scores parts with one detector."""
    with scratch_folder() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        detector = Detector.load(folder, device)
    return partial(_scored, detector, options)


def _scored(detector: Detector, options: Options, part: Part) -> Done:
    notes: list[str] = []
    try:
        make_folder(Path(part.output).parent)
        rows, alarms = score(part.path, detector, output=part.output, file=part.name, say=notes.append, options=options)
    except AnomalyVAEError as error:
        return Done(failed=str(error))
    return Done(rows, alarms, tuple(notes))
