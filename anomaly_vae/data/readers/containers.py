"""Files as bytes: decompressed, out of an archive, or spilled from a pipe; what is not read is refused by its name."""

from __future__ import annotations

import codecs
import errno
import lzma
import os
import re
import select
import shutil
import stat
import sys
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from anomaly_vae.core.errors import DataError
from anomaly_vae.core.files import explained
from anomaly_vae.data.readers.base import stem

# What a file begins with -> its format. Compressed formats are read through; Arrow decompresses all but xz and zip.
COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\xfd7zXZ": "xz",
} | {b"BZh%d1AY&SY" % level: "bz2" for level in range(1, 10)}  # fmt: skip
TABLES = {b"PAR1": "parquet", b"ARROW1\0": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x93NUMPY": "numpy"}
REFUSED = {
    b"%PDF-": "a PDF; save its table as CSV",
    b"PK\5\6": "an empty zip archive",
    b"SQLite format 3": "an SQLite database; save the table as CSV",
    b"\x89HDF": "an HDF5 file; save the table as Parquet, or the array as .npy",
    b"MATLAB 5.0": "a MATLAB file; save the table as CSV, or the array as .npy",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls); save it as .xlsx or CSV",
    b"\0\0\0\0\0\0\0\0\0\0\0\0\xc2\xea": "a SAS data set; save it as CSV or Parquet",
    b"$FL2": "an SPSS file; save it as CSV",
    b"<stata_dta>": "a Stata file; save it as CSV",
    b"RDX2\n": "an R data file; save the table as CSV",
    b"RDX3\n": "an R data file; save the table as CSV",
    b"X\n\0\0": "an R data file; save the table as CSV",
    b"Obj\1": "an Avro file; save it as Parquet",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!\x1a": "a RAR archive; unpack it",
    b"\x80\4\x95": "a pickle, which can run code and is not read; save the table as Parquet",
    b"\x80\5\x95": "a pickle, which can run code and is not read; save the table as Parquet",
    b"\x89PNG": "one picture; name the folder it is in",
    b"\xff\xd8\xff": "one picture; name the folder it is in",
    b"version https://git-lfs": "a pointer of Git LFS, not the data; fetch that with git lfs pull",
}
BOMS = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le"} | {
    codecs.BOM_UTF16_BE: "utf-16-be"
}
JSON = re.compile(rb'\s*(\[\s*[{\[]|\{\s*("|\}|$))')
MARKUP = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)
PACKED = 6  # approximate ratio of the size of text to that of its compressed form
BROKEN = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)  # what reading a damaged file raises
BUFFER = 1 << 20  # bytes read at a time
WAIT = 10  # seconds in which somebody must open a named pipe for writing


@dataclass(frozen=True)
class DataFile:
    """The bytes of a file; the content is what is left after decompression.

    path: as messages show it. name: of the data. place: where the bytes lie, to be opened as often
    as needed. format: of the content: parquet, arrow, numpy, npz, excel, json or text. compression: None, or a value of
    COMPRESSED or zip. member: of a zip archive. held: what keeps `place` alive.
    """

    path: str
    name: str
    place: str
    format: str = "text"
    compression: str | None = None
    member: str = ""
    held: Any = None

    def open(self) -> pa.NativeFile:
        """The content as a stream. Reading it raises one of BROKEN if the file is damaged."""
        if self.compression == "xz":
            return pa.PythonFile(lzma.open(self.place), "r")
        if self.compression == "zip":
            return pa.PythonFile(zipfile.ZipFile(self.place).open(self.member), "r")
        return pa.input_stream(self.place, compression=self.compression, buffer_size=BUFFER)

    def head(self, size: int | None) -> bytes:
        """The first bytes of the content; None: all. Raises DataError if the file is damaged."""
        with self.intact(), self.open() as stream:
            return bytes(stream.read(size))

    def size(self) -> int:
        """The approximate size of the content, in bytes."""
        return Path(self.place).stat().st_size * (PACKED if self.compression else 1)

    def unpacked(self) -> DataFile:
        """The file itself, or a decompressed copy of it in a temporary file."""
        if self.compression is None:
            return self
        with self.intact(), self.open() as stream:
            place, held = spill(lambda file: shutil.copyfileobj(stream, file, BUFFER))
        return replace(self, place=place, compression=None, held=held)

    @contextmanager
    def intact(self) -> Iterator[None]:
        """Raises what reading a damaged file raises as a DataError that says so."""
        try:
            yield
        except BROKEN as error:
            raise self.broken() from error

    def broken(self) -> DataError:
        """The error for a damaged file; it is returned, not raised."""
        what = f"broken {self.compression or self.format} file"
        again = "copy or compress it again" if self.compression else "copy or write it again"
        return DataError(f"{self.path}: {what}, its end is missing or damaged; {again}")


def open_file(path: str | Path) -> DataFile:
    """A file, decompressed, with the format of its content. `-` and pipes are read once, into a temporary file.

    Raises DataError if it does not exist or cannot be read, and for formats that are not read.
    """
    shown = str(path)
    place, held = "/dev/stdin" if shown == "-" else shown, None
    shown = "stdin" if shown == "-" else shown
    try:
        mode = os.stat(place).st_mode
        piped, fifo = not stat.S_ISREG(mode), stat.S_ISFIFO(mode)
        if piped:
            if os.environ.get("WORLD_SIZE", "1") != "1":
                raise DataError(f"{shown}: a pipe, which several processes cannot read; save it as a file")
            with open(place, "rb", opener=_without_waiting if fifo else None) as stream:
                if stream.isatty():
                    raise DataError(f"{shown}: a terminal; pipe data into this command, or name a file")
                first = _first_byte(stream.fileno(), shown) if fifo else b""

                def copy(file: IO[bytes]) -> None:
                    file.write(first)
                    shutil.copyfileobj(stream, file, BUFFER)

                place, held = spill(copy)
        file = DataFile(shown, "stdin" if piped or shown == "stdin" else stem(path), place, held=held)
        return _recognised(file)
    except FileNotFoundError as error:
        raise DataError(f"{shown}: no such file or folder") from error
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror or error})") from error


def _without_waiting(place: str, flags: int) -> int:
    """Opens a named pipe that nobody may have opened for writing yet."""
    return os.open(place, flags | os.O_NONBLOCK)


def _first_byte(pipe: int, shown: str) -> bytes:
    """Waits for the writer of a pipe, which blocks from then on; what it wrote in the moment when the wait ended.

    Raises DataError where nobody opens the pipe within WAIT. A writer that is there may take its time.
    """
    first = b""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    if not waiting.poll(1000 * WAIT):
        with suppress(BlockingIOError):  # a writer that is silent
            first = os.read(pipe, 1)
            if not first:
                raise DataError(f"{shown}: a pipe that nobody writes to, after {WAIT} s; start its writer first")
    os.set_blocking(pipe, True)
    return first


def spill(write: Callable[[IO[bytes]], None]) -> tuple[str, Any]:
    """Writes a temporary file; (path, what keeps it alive). Raises AnomalyVAEError, in one line, if the disk is full.

    Where the system can open a file again by its descriptor, the file has no name and ends with the process.
    """
    folder = Path(tempfile.gettempdir())
    unnamed = sys.platform == "linux" and os.path.isdir("/proc/self/fd")
    file: Any = tempfile.TemporaryFile() if unnamed else tempfile.NamedTemporaryFile()  # noqa: SIM115  (it is returned)
    try:
        write(file)
        file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with explained(folder):
                raise
        raise
    return (f"/proc/self/fd/{file.fileno()}" if unnamed else file.name), _Held(file)


class _Held:
    """Keeps a temporary file open as long as this lives."""

    def __init__(self, file: Any) -> None:
        weakref.finalize(self, file.close)


def _recognised(file: DataFile) -> DataFile:
    head = file.head(512)
    found = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    if found is None and head.startswith(b"PK\3\4"):
        return _of_zip(file)
    if found is not None:
        if file.compression is not None:  # compressed twice
            file = file.unpacked()
        return _recognised(replace(file, compression=found))
    for magic, reason in REFUSED.items():
        if head.startswith(magic):
            raise DataError(f"{file.path}: {reason}")
    if head[257:262] == b"ustar":
        raise DataError(f"{file.path}: a tar archive; unpack it, and name the folder")
    if MARKUP.match(head):
        raise DataError(f"{file.path}: a page of HTML or XML, not a table; save the table as CSV")
    format_ = next((name for magic, name in TABLES.items() if head.startswith(magic)), "text")
    if format_ == "text" and JSON.match(head.removeprefix(codecs.BOM_UTF8)):
        format_ = "json"
    return replace(file, format=format_)


def _of_zip(file: DataFile) -> DataFile:
    """A zip archive: a workbook, NumPy arrays, or the one file in it."""
    file = file.unpacked()
    try:
        with zipfile.ZipFile(file.place) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            members = [e.filename for e in entries]
            kind = archive.read("mimetype") if "mimetype" in members else b""
    except (*BROKEN, RuntimeError) as error:
        raise replace(file, format="zip").broken() from error
    if b"opendocument" in kind:
        raise DataError(f"{file.path}: an OpenDocument spreadsheet; save it as .xlsx or CSV")
    if "[Content_Types].xml" in members:
        if "xl/workbook.xml" not in members:
            raise DataError(f"{file.path}: an Office document that is no .xlsx workbook; save its table as CSV")
        return replace(file, format="excel")
    if members and all(name.endswith(".npy") for name in members):
        return replace(file, format="npz")
    entries = [e for e in entries if not any(p.startswith((".", "__MACOSX")) for p in e.filename.split("/"))]
    if len(entries) != 1:
        names = ", ".join(e.filename for e in entries[:10]) or "none"
        raise DataError(
            f"{file.path}: a zip archive of {len(entries)} files ({names}); unpack it, and name one, or the folder"
        )
    if entries[0].flag_bits & 1:
        raise DataError(f"{file.path}: an encrypted zip archive; unpack it")
    return _recognised(replace(file, compression="zip", member=entries[0].filename))
