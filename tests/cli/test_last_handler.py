"""A command ends in one line and a code: hostile settings, streams that take nothing, mistakes of our own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from anomaly_vae import cli
from anomaly_vae.core.errors import INTERNAL

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {  # content -> part of the line
    BOMB: "aliases are not read",
    "seed: !!int abc": "invalid literal for int",
    "seed: !!timestamp 2020-99-99": "month must be in 1..12",
    "seed: !!bool x": "not a YAML file of settings",
    "[" * 5000: "nested too deeply",
    'tracking: {name: "\\ud800"}': "no text in UTF-8",
    'tracking: {name: "a\\0b"}': "zero byte",
    "{1: 2}": "Keys should be strings",
    "? [a]\n: 1": "unhashable",
}
VALUES = {
    "seed=99999999999999999999999": "less than 9223372036854775808",
    "seed=0x" + "f" * 5000: "a number of thousands of digits",
    "seed=!!int abc": "is not a YAML value",
    "training.lr=nan": "finite number",
    "training.lr=.inf": "finite number",
    "model.hidden=[99999999999]": "less than or equal to",
    "a.b.c.d=1": "more than one dot",
    "training.epochs=" + "[" * 3000: "is not a YAML value",
    "seed=a\0b": "zero byte",
    "tracking.folder=a\udcffb": "is not a YAML value",
}


@pytest.mark.parametrize(("content", "says"), YAML.items(), ids=range(len(YAML)))
def test_a_hostile_file_of_settings_is_refused(content: str, says: str, workplace: Path) -> None:
    Path("s.yaml").write_text(content)
    done = CliRunner().invoke(cli.main, ["config", "-c", "s.yaml"])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr and len(done.stderr) < 5000


@pytest.mark.parametrize(("value", "says"), VALUES.items(), ids=range(len(VALUES)))
def test_a_hostile_value_is_refused(value: str, says: str) -> None:
    done = CliRunner().invoke(cli.main, ["config", "--set", value])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr and len(done.stderr) < 5000


def test_a_date_is_text_and_the_largest_seed_is_taken() -> None:
    done = CliRunner().invoke(cli.main, ["config", "--set", "data.normal=2024-05-01", "--set", f"seed={2**63 - 1}"])
    assert done.exit_code == 0 and "['2024-05-01']" in done.stdout and f"seed: {2**63 - 1}" in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("weights"), INTERNAL, "internal error: KeyError: 'weights' (test_last_handler.py:"),
        (OSError(36, "File name too long", "x" * 9), 1, "xxxxxxxxx: File name too long"),
        (MemoryError("1 TB"), 1, "memory does not suffice (MemoryError: 1 TB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "memory does not suffice"),
        (RuntimeError("a\nb\x1b[31m"), INTERNAL, r"internal error: RuntimeError: a b\x1b[31m"),
    ],
)
def test_any_exception_is_one_line_and_debug_has_the_rest(error: Exception, code: int, line: str) -> None:
    @click.command("break")
    def broken() -> None:
        raise error

    group = cli.Group("tool", params=cli.main.params, commands=[broken])
    done = CliRunner().invoke(group, ["break"])
    assert (done.exit_code, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith(f"anomaly-vae: {line}")
    assert CliRunner().invoke(group, ["break", "--debug"]).exception is error


def test_a_word_with_a_line_break_is_told_in_one_line() -> None:
    done = CliRunner().invoke(cli.main, ["runs", "a\nb"])
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, r"Error: Got unexpected extra argument (a\nb)")


COMMAND = f"{sys.executable} -m anomaly_vae"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("config >/dev/full", "anomaly-vae: what the command writes: No space left on device\n"),
        ("--help >/dev/full", "anomaly-vae: what the command writes: No space left on device\n"),
        ("config >&-", "anomaly-vae: stdout is closed; send it to a file, or to /dev/null\n"),
    ],
)
def test_a_stdout_that_takes_nothing_is_said(words: str, line: str) -> None:
    done = subprocess.run(f"{COMMAND} {words}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, line)


def test_a_closed_stderr_costs_nothing() -> None:
    done = subprocess.run(f"{COMMAND} config 2>&- <&-", shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and "\nseed: 0\n" in done.stdout


def test_sigterm_ends_a_command_as_an_exception_does(tmp_path: Path) -> None:
    program = (
        "import click, time\nfrom anomaly_vae import cli\n@click.command('wait')\ndef wait():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n    finally:\n        print('tidied')\n"
        "cli.main.add_command(wait)\ncli.main(['wait'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "tidied\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_an_interrupt_while_pandas_is_imported_is_not_lost(tmp_path: Path) -> None:
    """pyarrow imports pandas from C++, where an exception is dropped: Ctrl-C at that moment did nothing."""
    (tmp_path / "data.csv").write_text("a,b,c\n" + "0.5,1.5,x\n" * 20)
    detector = Path(__file__).parents[1] / "detector" / "format5" / "table"
    code = f"""
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "pandas":
            sys.meta_path.remove(self)
            raise SystemExit(143)
sys.meta_path.insert(0, Stop())
from anomaly_vae.cli import main
main(["score", "data.csv", "-m", {str(detector)!r}, "-o", "s.csv"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, sorted(path.name for path in tmp_path.iterdir())) == (143, ["data.csv"]), done.stderr
