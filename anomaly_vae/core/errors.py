"""What can go wrong, said in one line: what was found, where, and what would work."""

from __future__ import annotations


class AnomalyVAEError(Exception):
    """An expected failure. Its text is one line for the user; the command exits with `exit_code`."""

    exit_code = 1


class UsageError(AnomalyVAEError):
    """The command or a setting is wrong, whatever the data."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown or has a value it cannot have."""


class DataError(AnomalyVAEError):
    """The data cannot be read, or cannot serve the purpose asked of it."""


class TrainingError(AnomalyVAEError):
    """Training cannot go on: non-finite values, or no memory even for the smallest batch."""


class DetectorError(AnomalyVAEError):
    """A detector folder is missing, incomplete, altered or of another format version."""


class RunError(AnomalyVAEError):
    """A tracked run does not exist, is not finished, or the tracking store cannot be reached."""
