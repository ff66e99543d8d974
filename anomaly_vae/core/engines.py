"""The same work on many items: one after the other here, or over a Ray cluster. The only importer of ray."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from anomaly_vae.core.errors import AnomalyVAEError, UsageError

Item = TypeVar("Item")
Found = TypeVar("Found")
Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
RETRIES = 3  # times that an item is begun again after its worker or machine was lost


def map_items(
    engine: Engine, make: Callable[[], Callable[[Item], Found]], items: Sequence[Item]
) -> Iterator[tuple[Item, Found]]:
    """Each item with what the work makes of it: in order here (`local`), as they are done over a cluster (`ray`).

    make: called once in each worker, for the work with what it needs: a model. Over a cluster it travels to the
    workers, as do the items, by pickle. A worker that is lost is replaced, and its item done again.
    Raises UsageError where ray is not installed, AnomalyVAEError where the cluster fails, and what the work raises.
    """
    if not items:
        return
    if engine == "local":
        work = make()
        for item in items:
            yield item, work(item)
        return
    yield from _over_ray(make, items)


def _over_ray(make: Callable[[], Callable[[Item], Found]], items: Sequence[Item]) -> Iterator[tuple[Item, Found]]:
    ray = _connected()
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    size = min(len(items), gpus or cpus)  # one model a GPU, or a core where there is none
    work = ray.data.from_items([{"item": number} for number in range(len(items))], override_num_blocks=len(items))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from 2.64 on there is no way to bound the retries, hence the bound on Ray
        work = work.map_batches(
            _worker(make, items), batch_size=1, compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1, num_gpus=1 if gpus else 0,
            ray_remote_args_fn=lambda: {"max_restarts": RETRIES, "max_task_retries": RETRIES},
        )  # fmt: skip
    try:
        for row in work.iter_rows():
            found = pickle.loads(row["found"])
            if isinstance(found, Exception):
                raise found
            yield items[row["item"]], found
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1].split(". ")[0]
        raise AnomalyVAEError(f"the Ray cluster failed ({reason}); the same command goes on where it stood") from error


def _worker(make: Callable[[], Callable[[Any], Any]], items: Sequence[Any]) -> type:
    """The class of an actor: the work, made once, and called with the number of one item at a time."""

    class Worker:
        def __init__(self) -> None:
            self.work = make()

        def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
            number = int(batch["item"][0])
            try:
                found = self.work(items[number])
            except Exception as error:  # raised again where the command runs, and not done again
                error.add_note(traceback.format_exc())
                found = error
            return {"item": [number], "found": [pickle.dumps(found)]}

    return Worker


def _connected() -> Any:
    """ray, connected to the cluster that RAY_ADDRESS names, else to one started on this machine for this command."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a lost worker is told by what becomes of its item
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'anomaly-vae[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            _knock(address)
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise AnomalyVAEError(
                f"no Ray cluster answers at {address or 'this machine'} ({error}); start it, or unset RAY_ADDRESS to"
                " use this machine alone"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would try for more than two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
