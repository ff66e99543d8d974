"""Registries: the names that a setting chooses from, and the objects that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import TypeVar, cast

from anomaly_vae.core.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A dict of name -> "module:object"; the object is imported when its name is looked up.

    The names are therefore available without importing torch or pyarrow, which takes seconds: settings are checked
    against them, and `--help` lists them.
    """

    def __init__(self, setting: str, places: Mapping[str, str]) -> None:
        """setting: the setting that chooses one of the names, for messages. places: name -> "module:object"."""
        self.setting, self.places = setting, dict(places)

    def __getitem__(self, name: str) -> T:
        """The object. Raises ConfigError, which lists the names, for an unknown one."""
        if name not in self.places:
            raise ConfigError(f"setting '{self.setting}' = {name!r}: {expected(self.places)}")
        return cast(T, resolve_name(self.places[name]))

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def expected(names: Mapping[str, object] | tuple[str, ...]) -> str:
    """The part of a message that lists the valid names, in the wording of pydantic."""
    *others, last = (f"'{name}'" for name in names)
    return f"Input should be {', '.join(others)} or {last}" if others else f"Input should be {last}"
