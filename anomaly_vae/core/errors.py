"""The errors of the package. A message is one line: what was found, where, and what would work."""

from __future__ import annotations


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
