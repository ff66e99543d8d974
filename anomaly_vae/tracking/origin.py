"""Where a run comes from: who started it, with which versions, in which state of their repository."""

from __future__ import annotations

import getpass
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version

PACKAGES = ("mlflow", "numpy", "scikit-learn", "torch")


def tags() -> dict[str, str]:
    """Tags that MLflow's pages know by these names, and `version.NAME` of what decides the numbers."""
    from anomaly_vae import __version__

    found = {"mlflow.source.name": "anomaly-vae", "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # no name for this user id, as in some containers
        found["mlflow.user"] = getpass.getuser()
    found |= {"version.anomaly-vae": __version__, "version.python": platform.python_version()}
    found |= {f"version.{name}": version(name) for name in PACKAGES}
    return found | _repository()


def _repository() -> dict[str, str]:
    """Commit and branch of the repository of the current folder, where the configurations and studies of a run lie;
    empty where there is none, or no git."""
    found = {}
    for tag, command in {
        "mlflow.source.git.commit": ("rev-parse", "HEAD"),
        "mlflow.source.git.branch": ("rev-parse", "--abbrev-ref", "HEAD"),
        "git.dirty": ("status", "--porcelain", "--untracked-files=no"),
    }.items():
        try:
            answer = subprocess.run(("git", *command), capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if answer.returncode:
            return {}
        found[tag] = answer.stdout.strip()
    found["git.dirty"] = str(bool(found["git.dirty"]))
    return found
