import shlex

import pytest

from anomaly_vae.core import config
from anomaly_vae.core.advice import option, setting

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
    words = shlex.split(option("--label", name))
    assert words in (["--label", name], [f"--label={name}"])


def test_a_plain_name_reads_well() -> None:
    assert setting("data.drop", ["load"]) == "--set 'data.drop=[load]'"
    assert setting("data.unlabelled", "normal") == "--set data.unlabelled=normal"
    assert option("--label", "Class") == "--label Class"
