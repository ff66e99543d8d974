import shlex
import subprocess

import pytest

from anomaly_vae.cli.detect import fit_command
from anomaly_vae.core import config
from anomaly_vae.core.advice import argument, option, setting

ODD = (
    "plain", "Temp, degC", "P: bar", "flow [l/min]", "#3", "On", "null", "a'b", "12", "{x}", "*ptr", "x # y", "&a",
    "!t", '"quoted"', "back\\slash", "a\nb", "tab\there", "1e5", "2024-01-05", " blank ", "$HOME", "`date`", "a!b",
    "°C µ 😀", "-x", "~", "yes", "% of", "@at", "a,b", "?", "- a", "", "012", "1_000", "=", "a=b", "\x85", "\u2028",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_setting_pasted_into_a_shell_names_that_column(name: str) -> None:
    flag, override = shlex.split(setting("data.drop", [name, "b"]))
    assert flag == "--set"
    read = config.read(None, [override], {}, {}, {})
    assert read.data.drop == (name, "b")


@pytest.mark.parametrize("name", ODD)
def test_text_alone_is_quoted_too(name: str) -> None:
    (_, override) = shlex.split(setting("data.label", name))
    assert config.read(None, [override], {}, {}, {}).data.label == name


@pytest.mark.parametrize("name", ODD)
def test_an_option_pasted_into_a_shell_has_that_value(name: str) -> None:
    """Through a shell that passes its words on, and the command's own parser."""
    keys = ("label", "group", "id_column", "normal", "condition")
    line = " ".join(option(f"--{key.removesuffix('_column')}", name) for key in keys)
    assert line.isprintable()
    script = f"printf '%s\\0' {argument(name or '.')} {line}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    words = told.stdout.decode().split("\0")[:-1]
    params = fit_command.make_context("fit", words).params
    assert params["data"] in (name or ".", f"./{name}")
    assert [params[key] for key in keys] == [name, name, name, (name,), (name,)]


def test_a_plain_name_reads_well() -> None:
    assert setting("data.drop", ["load"]) == "--set 'data.drop=[load]'"
    assert setting("data.unlabelled", "normal") == "--set data.unlabelled=normal"
    assert option("--label", "Class") == "--label Class"
