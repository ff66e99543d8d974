"""Mutated inputs through the command line: tables of every format and container, pictures, YAML, `--set`, words and
detector folders.

    python -m pipelines.fuzz --inputs 20000                  one process, seeded: the same inputs each time
    python -m pipelines.fuzz --only csv,yaml --keep found    keeps each input that failed as a folder with its command

An input passes if its command ends within 20 s of a processor as the command line promises: with exit 0, or with one
line of stderr that begins with `anomaly-vae: `, an exit code of 1 or 2, nothing on stdout and no file that was not
there. Whether a mutated input should have been refused is not judged. The command `read`, which exists here alone,
opens, learns and reads data as a fit does, without training.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import importlib.util
import io
import json
import lzma
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
from click.testing import CliRunner
from PIL import Image

from anomaly_vae import cli
from anomaly_vae.data.open import open_source
from anomaly_vae.detector.configuration import load, opening
from anomaly_vae.detector.detector import Detector
from anomaly_vae.detector.storage import MANIFEST, seal

SECONDS = 20  # of a processor, or ten times as many on the clock, after which a command hangs
MEMORY = 24 << 30  # bytes of address space; most is what libraries map
TOKENS = [
    b'"', b"'", b",", b";", b"\t", b"|", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xed\xa0\x80", b"nan", b"inf", b"-1e999", b"1e-320", b"1,5", b"1.234,5", b"0x1F", b"1_000", b"9" * 20,
    b"\xe2\x80\xae", b"=cmd()", b"@x", b"\x1b[31m", b"<script>", b"2024-13-45", b"2024-01-01T00:00:00Z",
    b"x" * 70_000, b"x" * 140_000, b'"' + b"y" * 140_000, b"," * 5000, b"\n" * 5000, b"[" * 3000, b"{" * 3000,
    b"&a [*a]", b"*a", b"!!int abc", b"!!binary x", b"!!timestamp 2020-99-99", b"!!python/object:os.system x", b"? ",
    b": ", b"- ", b"#", b"%YAML 9", b"---\n", b"<<: ", b".inf",
]  # fmt: skip
ODD: list[Any] = [
    None, -1, 0, 1, 2**31, 10**30, 1e308, -1e308, float("nan"), float("inf"), True, "", "x", "x" * 100_000, "\ud800",
    "\0", [], {}, [[]], [None], {"a": 1}, [1] * 1000, "../../x", "=1+1",
]  # fmt: skip
NAMES = [
    "", ".", "..", "/", "x" * 300, "a\0b", "\udcff", "-", "--", "~", "*", "a/b/c", "/dev/null/x", "con:", "a\nb", "é",
    "%s", "🙂" * 80,
]  # fmt: skip


@dataclass
class Input:
    """A command over files that are written first."""

    command: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few random edits, one of them for certain."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 4, 30, 400)))
        how = rng.randrange(7)
        if how == 0:
            data[at:at] = rng.choice(TOKENS)
        elif how == 1:
            data[at:end] = rng.choice(TOKENS)
        elif how == 2:
            del data[at:end]
        elif how == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        elif how == 4:
            data[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
        elif how == 5 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """A JSON tree with one value replaced, added or left out."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        if rng.random() < 0.1:
            return {k: v for k, v in tree.items() if k != key} | (
                {} if rng.random() < 0.5 else {"new": rng.choice(ODD)}
            )
        return {**tree, key: mutated_tree(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        at = rng.randrange(len(tree))
        if rng.random() < 0.2:
            return tree[:at] + tree[at + 1 :] if rng.random() < 0.5 else tree + tree[at : at + 1]
        return [*tree[:at], mutated_tree(tree[at], rng), *tree[at + 1 :]]
    return rng.choice(ODD)


def _containers(frame: pd.DataFrame, text: bytes) -> dict[str, bytes]:
    """The same table in the other formats and compressions, by the name of its file; xlsx only with openpyxl."""
    numbers, labels = frame[["a", "b", "c"]].to_numpy(), np.repeat([0, 1], [50, 10])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("data.csv", text)
    writers: dict[str, Callable[[Any], Any]] = {
        "data.feather": frame.to_feather,
        "data.npy": lambda file: np.save(file, numbers),
        "records.npy": lambda file: np.save(file, frame[["a", "b"]].to_records(index=False)),
        "data.npz": lambda file: np.savez_compressed(file, X=numbers, y=labels),
    }
    if importlib.util.find_spec("openpyxl"):
        writers["data.xlsx"] = lambda file: frame.to_excel(file, index=False)
    found = {
        "data.json": frame.to_json(orient="records").encode(),
        "data.jsonl": frame.to_json(orient="records", lines=True).encode(),
        "data.csv.zip": archive.getvalue(),
        "data.csv.gz": gzip.compress(text, mtime=0),
        "data.csv.bz2": bz2.compress(text),
        "data.csv.xz": lzma.compress(text),
        "data.csv.zst": pa.compress(text, "zstd", asbytes=True),
    }
    for name, write in writers.items():
        file = io.BytesIO()
        write(file)
        found[name] = file.getvalue()
    return found


def _rezipped(content: bytes, rng: random.Random) -> bytes:
    """A zip archive of which the content of one member, or its name, is mutated, with checksums that hold."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen, what = rng.choice(names), rng.random()
        for name in names:
            member = old.read(name)
            if name == chosen and what < 0.1:
                continue
            if name == chosen and what > 0.2:
                member = mutated(member, rng)
            new.writestr(name + "x" if name == chosen and what <= 0.2 else name, member)
    return made.getvalue()


class Fuzz:
    """The seeds of each kind of input, and detectors that score them.

    folder: where `table`, `series` and `pictures` are saved detectors; they are fitted where they are not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        rows = np.random.default_rng(0)
        frame = pd.DataFrame(rows.normal(size=(60, 3)).round(3), columns=["a", "b", "c"]).assign(
            d=["x", "y, z", 'q"'] * 20
        )
        clock = pd.date_range("2024-03-01", periods=60, freq="10min").strftime("%Y-%m-%d %H:%M").to_list()
        series = frame[["a", "b", "c"]].assign(time=clock, machine=["m", "n"] * 30)
        texts = [
            frame.to_csv(index=False),
            frame.assign(label=[0] * 50 + [1] * 10).to_csv(sep=";", index=False, decimal=","),
        ]
        self.csv = [
            text.encode() for text in (*texts, series.to_csv(index=False), series.to_csv(sep="\t", index=False))
        ]
        self.csv += [texts[0].encode("utf-16"), gzip.compress(texts[0].encode(), mtime=0)]
        self.parquet = []
        for table, compression in ((frame, "snappy"), (series, "zstd"), (frame.astype({"d": "category"}), None)):
            file = io.BytesIO()
            table.to_parquet(file, compression=compression)
            self.parquet.append(file.getvalue())
        self.containers = _containers(frame, texts[0].encode())
        squares = rows.integers(0, 255, (24, 12, 12, 3)).astype(np.uint8)
        self.pictures = []
        for ending in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
            file = io.BytesIO()
            Image.fromarray(squares[0]).save(file, ending)
            self.pictures.append((f"{ending.lower()}", file.getvalue()))
        self.yaml = load().to_yaml().encode()
        self.settings = sorted(load().flat())
        small = {"training__steps": 2, "model__hidden": (4,), "model__latent": 2, "scoring__neighbours": 8}
        data: dict[str, tuple[Any, dict[str, Any]]] = {
            "table": (frame, small),
            "series": (series[["a", "b"]], {"kind": "series", "data__window": 8, "training__steps": 2}),
            "pictures": (squares.transpose(0, 3, 1, 2), {"model__kind": "conv2d", "training__steps": 2}),
        }
        self.detectors = {}
        for name, (values, settings) in data.items():
            if not (folder / name).is_dir():
                Detector.fit(values, **settings).save(folder / name)
            self.detectors[name] = {path.name: path.read_bytes() for path in sorted((folder / name).iterdir())}
        self.group = cli.Group("anomaly-vae", params=cli.main.params, callback=cli.main.callback)
        for command in (*cli.main.commands.values(), read):
            self.group.add_command(command)

    # --- kinds of input --------------------------------------------------------------------------------------------

    def of_csv(self, rng: random.Random) -> Input:
        return self._over("data.csv", mutated(rng.choice(self.csv), rng), rng)

    def of_parquet(self, rng: random.Random) -> Input:
        return self._over("data.parquet", mutated(rng.choice(self.parquet), rng), rng)

    def of_containers(self, rng: random.Random) -> Input:
        name = rng.choice(list(self.containers))
        content = self.containers[name]
        how = rng.random()
        if name.endswith((".zip", ".npz", ".xlsx")) and how < 0.8:
            content = _rezipped(content, rng)  # else hardly anything but checksums would be seen to be wrong
        elif name.endswith(".gz") and how < 0.5:
            content = gzip.compress(mutated(gzip.decompress(content), rng), mtime=0)
        else:
            content = mutated(content, rng)
        if rng.random() < 0.2:
            return Input(["read", "parts"], {f"parts/1-{name}": content, f"parts/2-{name}": self.containers[name]})
        return self._over(name, content, rng)

    def of_pictures(self, rng: random.Random) -> Input:
        files = {f"pics/{i}.{ending}": content for i, (ending, content) in enumerate(self.pictures)}
        name = rng.choice(list(files))
        files[name] = mutated(files[name], rng)
        skip = ["--skip-broken"] if rng.random() < 0.3 else []
        return Input(["read", "pics", *skip], files)

    def of_yaml(self, rng: random.Random) -> Input:
        start = self.yaml if rng.random() < 0.7 else b"training: {epochs: 3}\n"
        return Input(["config", "-c", "s.yaml"], {"s.yaml": mutated(start, rng)})

    def of_set(self, rng: random.Random) -> Input:
        name = rng.choice(self.settings) if rng.random() < 0.8 else rng.choice(NAMES)
        value = rng.choice(TOKENS).decode("utf-8", "surrogateescape") if rng.random() < 0.5 else str(rng.choice(ODD))
        return Input(["config", "--set", f"{name}={value}"])

    def of_words(self, rng: random.Random) -> Input:
        options = [
            "-m",
            "-o",
            "--id",
            "--threshold",
            "--explain",
            "--label",
            "--set",
            "-c",
            "--normal",
            "--seed",
            "--json",
        ]
        command = [rng.choice(("score", "fit", "evaluate", "runs", "threshold", "monitor", "export"))]
        command += ["data.csv"] if rng.random() < 0.5 else [rng.choice(NAMES)]
        for _ in range(rng.randrange(4)):
            command += [rng.choice(options), rng.choice([*NAMES, "nan", "1e400", "0", "-1", "a=b", "data.id=x"])]
        # never a fit that goes on: no column of these is left
        tracking = "tracking.enabled=false" if command[0] == "fit" else "tracking.folder=runs"
        return Input([*command, "--set", tracking], {"data.csv": b"a,b\n,\n,\n"})

    def of_detector(self, rng: random.Random) -> Input:
        kind = rng.choice(list(self.detectors))
        files = dict(self.detectors[kind])
        name = rng.choice(list(files))
        if name.endswith(".json") and rng.random() < 0.8:
            tree = mutated_tree(json.loads(files[name]), rng)
            files[name] = json.dumps(tree).encode("utf-8", "surrogatepass")
        else:
            files[name] = mutated(files[name], rng)
        if name != MANIFEST and rng.random() < 0.9:
            with tempfile.TemporaryDirectory() as scratch:
                for file, content in files.items():
                    if file != MANIFEST:
                        (Path(scratch) / file).write_bytes(content)
                seal(Path(scratch), "mutated")
                files[MANIFEST] = (Path(scratch) / MANIFEST).read_bytes()
        placed = {f"det/{file}": content for file, content in files.items()}
        if kind == "pictures":
            return Input(["threshold", "-m", "./det", "--policy", "fpr=0.1"], placed)
        return Input(["score", "data.csv", "-m", "./det"], {**placed, "data.csv": self.csv[0]})

    def _over(self, name: str, content: bytes, rng: random.Random) -> Input:
        detector = rng.choice(("table", "series"))
        score = ["score", name, "-m", str(self.folder / detector)]
        kind = ["--kind", rng.choice(("table", "series"))] if rng.random() < 0.5 else []
        return Input(score if rng.random() < 0.3 else ["read", name, *kind], {name: content})


KINDS: dict[str, Callable[[Fuzz, random.Random], Input]] = {
    "csv": Fuzz.of_csv, "parquet": Fuzz.of_parquet, "containers": Fuzz.of_containers, "pictures": Fuzz.of_pictures,
    "yaml": Fuzz.of_yaml, "set": Fuzz.of_set, "words": Fuzz.of_words, "detector": Fuzz.of_detector,
}  # fmt: skip


@click.command("read")
@click.argument("data")
@click.option("--kind")
@click.option("--skip-broken", is_flag=True)
def read(data: str, kind: str | None, skip_broken: bool) -> None:
    """Opens data, learns its columns from all rows and reads it, as a fit does."""
    tree = {"data": {"kind": kind, "skip_broken": skip_broken, "size": 12}}
    source = open_source(data, opening(load(base=tree)))
    layout = source.learn(np.arange(source.count()))
    for chunk in source.chunks(layout, layout.chunk_rows):
        chunk.values.sum()
    source.digest()


# --- running ---------------------------------------------------------------------------------------------------------


class Hang(BaseException):
    """A command took more than SECONDS."""


@contextmanager
def _limited() -> Iterator[None]:
    start, spent = time.monotonic(), time.process_time()

    def stop(*_: Any) -> None:
        # on a busy machine a command may get a small share of a processor, and hang no more for that
        if time.process_time() - spent > 0.9 * SECONDS or time.monotonic() - start > 9 * SECONDS:
            raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def fault(fuzz: Fuzz, case: Input, work: Path) -> str:
    """What is wrong with how the command ends, in the empty folder `work`; "": nothing."""
    for name, content in case.files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    before = set(work.rglob("*"))
    home = Path.cwd()
    os.chdir(work)
    try:
        with _limited():
            done = CliRunner().invoke(fuzz.group, case.command, catch_exceptions=True)
    except Hang:
        return "hang"
    finally:
        os.chdir(home)
    if done.exit_code == 128 + signal.SIGTERM:  # somebody stops the fuzzer, and the command took it for itself
        raise KeyboardInterrupt
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        error: BaseException = done.exception
        if isinstance(error, Hang):
            return "hang"
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return f"traceback {type(error).__name__} {place} {str(error)[:80]!r}"
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "Usage: ", "Try "))]
    if "internal error" in done.stderr:
        return f"traceback {lines[-1][:240]}"
    if done.exit_code == 0:
        return ""
    left = {path for path in work.rglob("*") if "runs" not in path.parts} - before
    if left:
        return f"left {sorted(path.name for path in left)[:3]}"
    if done.stdout:
        return f"half a result on stdout {done.stdout[:60]!r}"
    said = lines[-1] if lines else ""
    if done.exit_code not in (1, 2) or not said.startswith(("anomaly-vae: ", "Error: ", "Aborted!")) or len(lines) > 3:
        return f"exit {done.exit_code}: {done.stderr[-200:]!r}"
    return ""


def run(
    inputs: int,
    seed: int = 0,
    only: list[str] | None = None,
    keep: Path | None = None,
    detectors: Path | None = None,
) -> dict[str, Counter[str]]:
    """Counts of faults of each kind of input, and of all inputs under "inputs". The kinds take turns. detectors: see
    `Fuzz`; None: new ones."""
    kinds = only or list(KINDS)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    with tempfile.TemporaryDirectory() as scratch:
        fuzz = Fuzz(detectors or Path(scratch))
        work = Path(scratch) / "work"
        for number in range(inputs):
            kind = kinds[number % len(kinds)]
            case = KINDS[kind](fuzz, random.Random(f"{seed} {kind} {number}"))
            work.mkdir()
            try:
                found = fault(fuzz, case, work)
            except KeyboardInterrupt:  # what was counted is told
                break
            finally:
                shutil.rmtree(work)
            counts[kind]["inputs"] += 1
            if found:
                counts[kind][found] += 1
                if keep is not None and counts[kind][found] == 1:
                    _keep(case, keep / f"{kind}-{number}", found)
    return counts


def _keep(case: Input, folder: Path, found: str) -> None:
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.json").write_text(json.dumps({"command": case.command, "found": found}, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"kinds of input: {', '.join(KINDS)}")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed, one of each fault")
    options = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    start = time.monotonic()
    counts = run(options.inputs, options.seed, options.only, options.keep)
    for kind, faults in counts.items():
        for found, count in faults.most_common():
            print(f"{kind:9} {count:6} {found}")
    total = sum((faults for faults in counts.values()), Counter[str]())
    words = ("traceback", "hang", "left", "half", "exit")
    summary = {word: sum(n for found, n in total.items() if found.startswith(word)) for word in words}
    print(f"{total['inputs']} inputs, {summary}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
