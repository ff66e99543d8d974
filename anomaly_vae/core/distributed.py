"""Training in several processes, on one machine or many: `torchrun --nproc-per-node 2 -m anomaly_vae fit ...`.

All processes share each batch. Every process draws the order of the rows and the noise of the complete batch from the
same seed, computes its own rows of the batch, and takes means over the rows of all processes; torch's
DistributedDataParallel averages the gradients. The loss curve is therefore that of a single process with the same batch
size, up to rounding, also for objectives that depend on the complete batch: free bits, an optimal sigma, a codebook's
moving averages. With one process every function here is the plain operation, with identical bits.

The first process is the lead: only it prints, logs and writes.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from anomaly_vae.core.errors import AnomalyVAEError, ConfigError, TrainingError

T = TypeVar("T")
FAILED, REASON = "anomaly-vae/failed", "anomaly-vae/reason"  # keys in the store that the processes share


# --- the job -------------------------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether torchrun started this process as one of several, judged by its environment variables."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def is_lead() -> bool:
    """Whether this process is the one that prints, logs and writes; true without a job."""
    return dist.get_rank() == 0 if dist.is_initialized() else not launched() or os.environ["RANK"] == "0"


@contextmanager
def job(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started to one group: NCCL with a CUDA device each, or gloo on the CPU.

    device: the setting. An error in one process ends all: that process reports it, and the others end silently.
    Raises ConfigError if there are more processes than CUDA devices.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    signal.signal(signal.SIGTERM, _stopped)
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        _own_device()
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        with together():
            yield
    except Exception as error:
        if not _first_to_fail(error) and isinstance(error, AnomalyVAEError):
            raise SystemExit(error.exit_code) from error  # another process reports the reason
        raise
    dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Within a job, raises the failure of another process as a TrainingError with its reason."""
    if not dist.is_initialized():
        yield
        return
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, _Stopped | dist.DistError) and "gloo" not in str(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun now sends SIGTERM, but the run must be closed first
        reason = "it was killed, or its machine or network was lost; `anomaly-vae fit --resume RUN_ID` goes on"
        with suppress(dist.DistError):
            if _store().add(FAILED, 0):
                reason = _store().get(REASON).decode()  # waits until it is set
        raise TrainingError(f"another process of this job failed: {reason}") from error


def from_lead(compute: Callable[[], T]) -> T:
    """The result of `compute`, which only the lead calls, in every process. The result must be small."""
    if not dist.is_initialized():
        return compute()
    results = [compute() if is_lead() else None]
    dist.broadcast_object_list(results, 0)
    return cast(T, results[0])


class _Stopped(RuntimeError):
    """torchrun stops this process because another one ended."""


def _stopped(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped("stopped by torchrun")


def _own_device() -> None:
    """Selects the CUDA device of this process. Raises ConfigError if there is none for it."""
    local_rank, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= n_devices:
        raise ConfigError(
            f"device: {local_rank + 1} processes or more on this machine and {n_devices} CUDA devices;"
            f" --nproc-per-node {n_devices} or device=cpu would work"
        )
    torch.cuda.set_device(local_rank)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _first_to_fail(error: Exception) -> bool:
    """Whether no other process failed before. If so, the reason is stored for the others and for torchrun's report."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    with suppress(dist.DistError):  # raised if the process that holds the store has ended
        if _store().add(FAILED, 1) > 1:
            return False
        _store().set(REASON, f"process {dist.get_rank()} of {dist.get_world_size()}: {error}")
    get_error_handler().record_exception(error)
    return True


# --- the batch -----------------------------------------------------------------------------------------------------


class SharedGenerator(torch.Generator):
    """A generator with the same seed in every process.

    rows: the slice of the batch that this process computes. batch: the number of rows of the batch. `share` sets both.
    """

    rows: slice = slice(None)
    batch: int = 0


class RepeatedGenerator(torch.Generator):
    """A generator that draws for one row and repeats it for all rows of a batch: what is computed of a row then depends
    on no other, nor on where it stands."""


def generator(device: torch.device, seed: int) -> torch.Generator:
    """A seeded generator; in a job a SharedGenerator."""
    unseeded = SharedGenerator(device) if dist.is_initialized() else torch.Generator(device)
    return unseeded.manual_seed(seed)


def share(index: Tensor, noise: torch.Generator) -> Tensor:
    """This process's part of the `index` (B,) of a batch. `noise` then draws for the same part.

    If a batch has fewer rows than there are processes, each process computes all of its rows; means over it are the
    same.
    """
    if not isinstance(noise, SharedGenerator):
        return index
    rank, world, noise.batch = dist.get_rank(), dist.get_world_size(), len(index)
    noise.rows = slice(None)
    if len(index) >= world:
        noise.rows = slice(len(index) * rank // world, len(index) * (rank + 1) // world)
    return index[noise.rows]


def normal(shape: Sequence[int], noise: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers of `shape`, whose first axis is the batch, on the device of the generator."""
    if isinstance(noise, RepeatedGenerator):
        return torch.randn((1, *shape[1:]), generator=noise, device=noise.device, dtype=dtype).expand(*shape)
    if not isinstance(noise, SharedGenerator):
        return torch.randn(shape, generator=noise, device=noise.device, dtype=dtype)
    return torch.randn((noise.batch, *shape[1:]), generator=noise, device=noise.device, dtype=dtype)[noise.rows]


def uniform(count: int, rows: int, noise: torch.Generator) -> Tensor:
    """Uniform numbers from [0, 1), (count, rows), on `noise`'s device. rows: of this process's part of the batch."""
    if not isinstance(noise, SharedGenerator):
        return torch.rand(count, rows, generator=noise, device=noise.device)
    return torch.rand(count, noise.batch, generator=noise, device=noise.device)[:, noise.rows]


def bernoulli(p: Tensor, noise: torch.Generator) -> Tensor:
    """0 or 1 for each element of p (B, ...), which holds the probability of 1."""
    if isinstance(noise, RepeatedGenerator):
        return (uniform_like(p, noise) < p).to(p.dtype)
    if not isinstance(noise, SharedGenerator):
        return torch.bernoulli(p, generator=noise)
    everywhere = p.new_zeros(noise.batch, *p.shape[1:])
    everywhere[noise.rows] = p
    return torch.bernoulli(everywhere, generator=noise)[noise.rows]


def uniform_like(x: Tensor, noise: torch.Generator) -> Tensor:
    """Numbers from [0, 1) for each element of x (B, ...)."""
    rows = 1 if isinstance(noise, RepeatedGenerator) else len(x)
    return torch.rand(rows, *x.shape[1:], generator=noise, device=x.device).expand_as(x)


def gathered(values: Tensor, noise: torch.Generator) -> Tensor:
    """(B, ...) the values of all rows of the batch, of each process's own (b, ...). Without gradient."""
    if not isinstance(noise, SharedGenerator) or noise.rows == slice(None):
        return values
    joined = values.new_zeros(noise.batch, *values.shape[1:])
    joined[noise.rows] = values
    dist.all_reduce(joined)
    return joined


# --- means and gradients -------------------------------------------------------------------------------------------


def batch_means(*values: Tensor) -> tuple[Tensor, ...]:
    """The mean of each of `values`, (b, ...), over all rows of the batch, (...); differentiable, in one exchange."""
    if not dist.is_initialized():
        return tuple(value.mean(0) for value in values)
    sums = [value.sum(0) for value in values]
    count = values[0].new_full((1,), len(values[0]))
    packed = _Sum.apply(torch.cat([*(s.reshape(-1) for s in sums), count]))
    pieces = (packed[:-1] / packed[-1]).split([s.numel() for s in sums])
    return tuple(piece.reshape(s.shape) for piece, s in zip(pieces, sums, strict=True))


def mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean of all elements of the whole batch, or of those that are `counted`, differentiable; 0 where none is."""
    if counted is None and not dist.is_initialized():
        return values.mean()
    number = values.new_tensor(values.numel()) if counted is None else counted.sum().to(values.dtype)
    total = torch.stack([(values if counted is None else torch.where(counted, values, 0.0)).sum(), number])
    total = cast(Tensor, _Sum.apply(total)) if dist.is_initialized() else total
    return total[0] / total[1].clamp(min=1)


class _Sum(Function):
    """The sum over processes. Its gradient is the sum of the processes' gradients, because each uses the result."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


def _summed(value: Tensor) -> Tensor:
    total = value.contiguous().clone()
    dist.all_reduce(total)
    return total


def parallel(model: nn.Module) -> nn.Module:
    """The model to train: itself without a job; in a job with the lead's weights in every process and averaged
    gradients.

    Each process computes the loss from means over the complete batch. The gradients of the processes then sum to the
    gradient of that loss times the number of processes, so their average is the gradient of the loss.
    """
    if not dist.is_initialized():
        return model
    with warnings.catch_warnings():  # torch 2.15 renames the argument, and 2.11 does not have the new name
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def inner(model: nn.Module) -> Any:
    """The model that was passed to `parallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model
