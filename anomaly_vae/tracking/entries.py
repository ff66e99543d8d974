"""What is logged, as plain data: the same entry is sent to a store, or kept on disk until a store answers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Point:
    """One value of a metric. when: milliseconds since 1970."""

    key: str
    value: float
    when: int
    step: int


@dataclass(frozen=True)
class Batch:
    """Points, parameters and tags, few enough for one request."""

    points: Sequence[Point] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """A dataset under Inputs; what MLflow's entity of that name takes, in its own words."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str
    context: str


@dataclass(frozen=True)
class Files:
    """The files of a local folder as artifacts in the folder `place` ("": at the top)."""

    folder: Path
    place: str


@dataclass(frozen=True)
class ModelFiles:
    """The files of the run's logged model, which is whole with them. name: what the list of models shows."""

    folder: Path
    name: str


@dataclass(frozen=True)
class End:
    """The end of the run. when: milliseconds since 1970."""

    status: str
    when: int


Entry = Batch | Data | Files | ModelFiles | End


class Sink(Protocol):
    """Where entries go, in order. Taking one twice is the same as taking it once."""

    def take(self, entry: Entry) -> None: ...


def to_json(entry: Batch | Data | End) -> dict[str, Any]:
    """An entry without files as one JSON object."""
    return {type(entry).__name__: asdict(entry)}


def from_json(tree: Mapping[str, Any]) -> Batch | Data | End:
    """The entry that `to_json` made an object of."""
    ((kind, values),) = tree.items()
    if kind == "Batch":
        return Batch([Point(**point) for point in values["points"]], values["params"], values["tags"])
    return Data(**values) if kind == "Data" else End(**values)
