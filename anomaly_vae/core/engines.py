"""The same work on many items, one after the other or on a Ray cluster. The only importer of ray."""

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
Result = TypeVar("Result")
Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
RETRIES = 3  # how often an item is started again after its worker or machine was lost


def map_items(
    engine: Engine, make: Callable[[], Callable[[Item], Result]], items: Sequence[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result: in their order with the engine `local`, as they are finished with `ray`.

    make: called once in each worker; it loads what the work needs, e.g. a model, and returns the function of one item.
    With ray, `make` and the items are sent to the workers by pickle; a lost worker is replaced, and its item repeated.
    Raises UsageError if ray is not installed, AnomalyVAEError if the cluster fails, and every exception of the work.
    """
    if not items:
        return
    if engine == "local":
        work = make()
        for item in items:
            yield item, work(item)
        return
    yield from _over_ray(make, items)


def _over_ray(make: Callable[[], Callable[[Item], Result]], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
    ray = _connected()
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    size = min(len(items), gpus or cpus)  # one worker for each GPU; without GPUs, for each core
    numbers = ray.data.from_items([{"item": number} for number in range(len(items))], override_num_blocks=len(items))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.64 cannot limit retries any more
        results = numbers.map_batches(
            _worker(make, items),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            ray_remote_args_fn=lambda: {"max_restarts": RETRIES, "max_task_retries": RETRIES},
        )
    try:
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield items[row["item"]], result
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1].split(". ")[0]
        raise AnomalyVAEError(f"the Ray cluster failed ({reason}); the same command goes on where it stood") from error


def _worker(make: Callable[[], Callable[[Any], Any]], items: Sequence[Any]) -> type:
    """The class of an actor, which makes the work once and is called with the number of one item at a time."""

    class Worker:
        def __init__(self) -> None:
            self.work = make()

        def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
            number = int(batch["item"][0])
            try:
                result = self.work(items[number])
            except Exception as error:  # returned, so that the command raises it and Ray does not repeat the item
                error.add_note(traceback.format_exc())
                result = error
            return {"item": [number], "result": [pickle.dumps(result)]}

    return Worker


def _connected() -> Any:
    """The module ray, connected to the cluster at RAY_ADDRESS, else to one started on this machine for the command."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a lost worker is no error: its item is repeated
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'anomaly-vae[ray]'") from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            _require_listener(address)
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


def _require_listener(address: str) -> None:
    """Raises OSError if nothing listens at HOST:PORT; Ray itself would try for more than two minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
