"""The commands as a user types them."""

from __future__ import annotations

from click.testing import CliRunner, Result

from anomaly_vae.cli import main
from anomaly_vae.core.threads import collect_rarely

collect_rarely()  # before the tests import their libraries, as the commands do


def run(*command: str) -> Result:
    """What a command said and its exit code; an error that is no exit is raised."""
    result = CliRunner().invoke(main, command)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(*command: str) -> str:
    """What a command that ends well prints."""
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    return result.stdout
