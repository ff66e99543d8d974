"""The errors of the package, and how any exception is told. A message is one line: what was found, where, and what
would work."""

from __future__ import annotations

import traceback
from pathlib import Path

INTERNAL = 70  # exit code of an exception that nobody expected; EX_SOFTWARE of sysexits.h


class AnomalyVAEError(Exception):
    """An expected failure. Its message is one line for the user; a command exits with `exit_code`."""

    exit_code = 1


class UsageError(AnomalyVAEError):
    """The command or a setting is wrong, whatever the data."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown or has an invalid value."""


class DataError(AnomalyVAEError):
    """The data cannot be read, or is not suitable for the command."""


class TrainingError(AnomalyVAEError):
    """Training cannot continue: values are not finite, or memory does not suffice even for the smallest batch."""


class DetectorError(AnomalyVAEError):
    """A detector folder is missing, incomplete, modified or of an unknown format version."""


class RunError(AnomalyVAEError):
    """A tracked run does not exist, is not finished, or the tracking store cannot be reached."""


def escaped(text: str) -> str:
    """The text with what a terminal would obey instead of showing it, such as ESC, written as \\x1b; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def told(error: Exception) -> tuple[str, int]:
    """The one line that says why a command ended, whatever the exception, and the exit code.

    What the system refuses, and memory that does not suffice, are expected failures; anything else is our mistake.
    """
    code, line = 1, f"{type(error).__name__}: {error}"
    if isinstance(error, AnomalyVAEError):
        code, line = error.exit_code, str(error)
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_memory(line)):
        line = f"memory does not suffice ({_cut(line)}); smaller sizes, or a larger machine, would work"
    elif isinstance(error, OSError) and error.strerror:
        line = f"{error.filename or 'what the command writes'}: {error.strerror}"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        code = INTERNAL
        line = (
            f"internal error: {_cut(line)} ({Path(frame.filename).name}:{frame.lineno}); a fault of anomaly-vae: please"
            " report it, with what the same command prints with --debug"
        )
    # blanks within a line are kept, for they may be part of a name that is quoted for the shell
    return escaped(_cut(" ".join(part.strip() for part in line.splitlines()), 4000)), code


def _is_memory(line: str) -> bool:
    return "out of memory" in line or "can't allocate memory" in line


def _cut(line: str, most: int = 300) -> str:
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"
