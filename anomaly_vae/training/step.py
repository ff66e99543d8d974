"""One optimiser step; on a CUDA device captured as a graph and replayed.

A step of a small network is a hundred or two kernels of a few microseconds each, and to launch them one by one from
Python takes ten times as long as to run them. What changes from step to step, the samples, the learning rate and beta,
is therefore kept in tensors that a captured step reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_vae.core import distributed
from anomaly_vae.core.config import Config
from anomaly_vae.core.device import autocast
from anomaly_vae.core.errors import TrainingError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import Output
from anomaly_vae.training.adversarial import Discriminator
from anomaly_vae.training.augment import corrupted
from anomaly_vae.training.objective import loss
from anomaly_vae.training.optimizer import AdamW
from anomaly_vae.training.schedules import beta_at, capacity_at, learning_rate_at, risen

WARM_UP = 3  # steps of a size before it is captured: libraries choose their algorithms, the optimiser makes its moments


class TrainingStep:
    """The steps of one training, and their sums since `start`. Nothing waits for the device.

    sums: (3,) loss, recon and kl in nats, summed over the samples of all steps with a finite gradient. skipped: () the
    number of the other steps, which change nothing.
    """

    def __init__(
        self, net: nn.Module, train: RowDataset, optimizer: torch.optim.AdamW, config: Config, scale: float,
        opponent: Discriminator | None = None,
    ) -> None:  # fmt: skip
        """net: the model, or what `distributed.parallel` made of it. scale: of the data, the unit of the noise."""
        self.net, self.train, self.optimizer, self.config = net, train, optimizer, config
        self.scale, self.opponent, device = scale, opponent, train.device
        self.noise = distributed.generator(device, config.seed)
        self.sums, self.skipped = torch.zeros(3, device=device), torch.zeros((), device=device)
        self.beta, self.capacity = torch.zeros((), device=device), torch.zeros((), device=device)
        on_device = device.type == "cuda" and not train.pinned
        self.captures = config.training.cuda_graph and on_device and opponent is None and not distributed.launched()
        self.warm: dict[int, int] = {}  # batch size -> steps
        self.captured: dict[int, tuple[Tensor, torch.cuda.CUDAGraph]] = {}  # batch size -> the samples that it reads

    def start(self, seed: int) -> None:
        """Begins an epoch, whose noise comes from the seed."""
        self.noise.manual_seed(seed)
        self.sums.zero_()
        self.skipped.zero_()

    def __call__(self, index: Tensor, progress: float) -> None:
        """One step on the samples `index` (B,) after a share `progress` (0-1) of the training.

        Raises OutOfMemoryError, after which `release` and a step with fewer samples may work, and TrainingError where
        the step of this model cannot be captured.
        """
        objective, size = self.config.objective, len(index)
        capacity = capacity_at(objective, progress)
        self.beta.fill_(beta_at(objective, progress))
        self.capacity.fill_(capacity or 0.0)
        for group in self.optimizer.param_groups:
            rate = learning_rate_at(self.config.training, progress)
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        if size in self.captured:
            samples, graph = self.captured[size]
            samples.copy_(index)
            graph.replay()
            return
        self._compute(index, risen(objective, progress) >= 1)
        self.warm[size] = self.warm.get(size, 0) + 1
        if self.captures and self.warm[size] == WARM_UP:
            self.captured[size] = self._capture(index)

    def release(self) -> None:
        """Frees the memory of gradients and of captured steps."""
        self.optimizer.zero_grad(set_to_none=True)
        self.captured, self.warm = {}, {}
        torch.cuda.empty_cache()

    def _capture(self, index: Tensor) -> tuple[Tensor, torch.cuda.CUDAGraph]:
        """A step on as many samples as there are in `index`, which is recorded but not run."""
        samples, graph = index.clone(), torch.cuda.CUDAGraph()
        graph.register_generator_state(self.noise)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._compute(samples, False)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(
                f"a step of model.kind={self.config.model.kind} cannot be captured as a CUDA graph ({reason});"
                " --set training.cuda_graph=false would work"
            ) from error
        return samples, graph

    def _compute(self, index: Tensor, at_full_beta: bool) -> None:
        """at_full_beta: whether the discriminator judges, which it does not before."""
        config, opponent = self.config, self.opponent if at_full_beta else None
        x = self.train.take(distributed.share(index, self.noise))
        x, read = corrupted(x, distributed.inner(self.net), config, self.scale, self.noise)
        with autocast(config, x.device):
            out = self.net(read, self.noise)
        capacity = None if config.objective.capacity is None else self.capacity
        total, recon, kl = loss(x, out, config.objective, self.beta, capacity)
        if opponent is not None:
            total = total + config.objective.adversarial * x[0].numel() * opponent.objection(_pictures(x, out))
        self.optimizer.zero_grad(set_to_none=True)
        # nats an element: one learning rate and one clip norm then serve 20 columns and 50,000 pixels
        (total / x[0].numel()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.training.clip)
        found = (~torch.isfinite(norm)).float()
        self.optimizer.found_inf = found  # type: ignore[attr-defined]  # the fused step skips itself on the device
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.optimizer.step()
        if opponent is not None:
            opponent.learn(out.data(x), _pictures(x, out))
        self.skipped += found
        means = torch.stack([total.detach(), recon.detach(), kl.detach()])
        self.sums += torch.where(found > 0, torch.zeros_like(means), means * len(index))


def adamw(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """The optimiser of a resolved configuration; on a CUDA device a step of it can be captured."""
    settings, device = config.training, next(model.parameters()).device
    assert settings.lr
    optimizer = AdamW(
        model.parameters(), settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True,
        capturable=device.type == "cuda",
    )  # fmt: skip
    if device.type == "cuda":
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(settings.lr, device=device)
    return optimizer


def _pictures(x: Tensor, out: Output) -> Tensor:
    """The reconstruction (B, C, H, W), the mean over members."""
    return out.px.mean if out.px.mean.dim() == x.dim() else out.px.mean.mean(0)
