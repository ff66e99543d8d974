"""Training in several processes, on one machine or many: `torchrun --nproc-per-node 2 -m anomaly_vae fit ...`.

The batch stays one batch. Every process draws the order of the rows and the noise of the whole batch from the same
seed, computes its own rows of it, and takes means over the rows of all; torch's DistributedDataParallel sums the
gradients. The loss curve is therefore the one of a single process with the same batch size, up to rounding, for
objectives that look at the batch as a whole too: free bits, an optimal sigma, a codebook's moving averages. With one
process every function here is the plain operation, to the bit.

The first process is the lead: it alone prints, logs and writes.
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
FAILED, REASON = "anomaly-vae/failed", "anomaly-vae/reason"  # keys of the store that the processes share


# --- the job -------------------------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether this process is one of several, by the variables that torchrun sets."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def is_lead() -> bool:
    """Whether this process is the one that prints, logs and writes; a single process is."""
    return dist.get_rank() == 0 if dist.is_initialized() else not launched() or os.environ["RANK"] == "0"


@contextmanager
def job(device: str) -> Iterator[None]:
    """The processes that torchrun started as one group: NCCL with a CUDA device each, or gloo on the CPU.

    device: the setting. An error in one process ends them all: that process tells it, the others end silently.
    Raises ConfigError where there are more processes than CUDA devices.
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
            raise SystemExit(error.exit_code) from error  # another process has said why
        raise
    dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Within a job: that another process failed is raised as a TrainingError with the reason it gave."""
    if not dist.is_initialized():
        yield
        return
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, _Stopped | dist.DistError) and "gloo" not in str(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's comes now; the run is closed first
        reason = "it was killed, or its machine or network was lost; `anomaly-vae fit --resume RUN_ID` goes on"
        with suppress(dist.DistError):
            if _store().add(FAILED, 0):
                reason = _store().get(REASON).decode()  # waits for it
        raise TrainingError(f"another process of this job failed: {reason}") from error


def from_lead(find: Callable[[], T]) -> T:
    """What `find` returns in the lead, in every process; it is called nowhere else, and must be small."""
    if not dist.is_initialized():
        return find()
    found = [find() if is_lead() else None]
    dist.broadcast_object_list(found, 0)
    return cast(T, found[0])


class _Stopped(RuntimeError):
    """torchrun ends this process because another one ended."""


def _stopped(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped("stopped by torchrun")


def _own_device() -> None:
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise ConfigError(
            f"device: {local + 1} processes or more on this machine and {found} CUDA devices;"
            f" --nproc-per-node {found} or device=cpu would work"
        )
    torch.cuda.set_device(local)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _first_to_fail(error: Exception) -> bool:
    """Whether no other process failed before; the reason is kept for them, and for torchrun's own report."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    with suppress(dist.DistError):  # the store was lost with its process
        if _store().add(FAILED, 1) > 1:
            return False
        _store().set(REASON, f"process {dist.get_rank()} of {dist.get_world_size()}: {error}")
    get_error_handler().record_exception(error)
    return True


# --- the batch -----------------------------------------------------------------------------------------------------


class SharedGenerator(torch.Generator):
    """A generator that every process seeds alike, and that knows which `rows` of a batch of `batch` are its own."""

    rows: slice = slice(None)
    batch: int = 0


class RepeatedGenerator(torch.Generator):
    """A generator that draws for one row and repeats it for all rows of a batch: what is computed of a row then depends
    on no other, nor on where it stands."""


def generator(device: torch.device, seed: int) -> torch.Generator:
    """A seeded generator; in a job one whose batches are shared."""
    made = SharedGenerator(device) if dist.is_initialized() else torch.Generator(device)
    return made.manual_seed(seed)


def share(index: Tensor, noise: torch.Generator) -> Tensor:
    """This process's part of a batch's `index` (B,), which `noise` then draws for.

    A batch of fewer rows than processes is computed whole by each of them: no mean over it changes by that.
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
    """(count, rows) numbers from [0, 1) for the rows of a batch, on the device of the generator."""
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


def whole(values: Tensor, noise: torch.Generator) -> Tensor:
    """(B, ...) the values of all rows of the batch, of each process's own (b, ...). Without gradient."""
    if not isinstance(noise, SharedGenerator) or noise.rows == slice(None):
        return values
    joined = values.new_zeros(noise.batch, *values.shape[1:])
    joined[noise.rows] = values
    dist.all_reduce(joined)
    return joined


# --- means and gradients -------------------------------------------------------------------------------------------


def batch_means(*values: Tensor) -> tuple[Tensor, ...]:
    """The mean of each (B, ...) over the rows of the whole batch, differentiable; in one exchange."""
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
    """The sum over processes. Its gradient is the sum of theirs, for each goes on computing with the result."""

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
    """The model as it is trained: alone itself; in a job the lead's weights in every process, and gradients averaged.

    A loss that each process computes from means over the whole batch has its own gradient times the number of
    processes, in shares: their average is the gradient.
    """
    if not dist.is_initialized():
        return model
    with warnings.catch_warnings():  # torch 2.15 has another name for the setting, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def inner(model: nn.Module) -> Any:
    """The model that `parallel` was given."""
    return model.module if isinstance(model, DistributedDataParallel) else model
