"""The score of a picture from the positions of its feature maps: what is fitted after training, and maps in pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.base import VAE, Output, elements
from anomaly_vae.models.feature_maps import FeatureMaps, interpolation
from anomaly_vae.scoring.parts.feature_cache import FeatureCache
from anomaly_vae.scoring.parts.memory_bank import MemoryBank
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior

TRAINED, HELD, FITTED = 100_000, 20_000, 100_000  # positions at most: to train on, to stop by, to fit the parts to
FLOOR = 0.05  # of a channel's standard deviation, as a share of their median: a channel that never moved is no alarm
RIDGE = 1e-3  # of the residuals' covariance, in units of their mean variance
AXES = 40  # principal axes of the memory
SHARE = 2.0  # of the neighbours part on held-out normals, in units of recon + kl
RINGS = 4  # cells from a side that may be suppressed
BLUR = 4.0  # pixels, standard deviation of the blur of maps


class PatchScore(nn.Module):
    """Feature maps, and the parts of the score at each of their positions, in nats.

    recon: 1/2 Mahalanobis distance of the residual under the full covariance of training residuals ("covariance"), or
    the training likelihood's. kl: to N(0, I) or to a mixture fitted to the training posteriors. neighbours: squared
    distance to the nearest of a memory of normal features, in units that make it SHARE times recon + kl on held-out
    normals.

    Positions near the border are divided by how much more than the inside they cost on held-out normals, where it is
    more: what lies beyond the border is made up by padding. They are never raised: what is plain near the border of
    one picture may not be in the next.
    """

    mean: Tensor  # (C,) of training features
    deviation: Tensor  # (C,)
    residual_mean: Tensor  # (C,)
    whiten: Tensor  # (C, C): |whiten (r - mean)|^2 is the squared Mahalanobis distance of a residual
    unit: Tensor  # () nats of a unit of squared distance
    border: Tensor  # (h, w) what nats are divided by, at least 1
    rows: Tensor  # (H, h) from cells to blurred pixels
    columns: Tensor  # (W, w)

    def __init__(self, features: FeatureMaps, config: ScoringConfig, latent: int) -> None:
        super().__init__()
        if config.recon not in ("covariance", "likelihood"):
            raise ConfigError(
                f"scoring.recon={config.recon} is of pictures that a model reconstructs; model.kind=features"
                " reconstructs features: covariance or likelihood would work"
            )
        self.features, self.config = features, config
        grid, channels = features.grid, features.channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("residual_mean", torch.zeros(channels))
        self.register_buffer("whiten", torch.eye(channels))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("border", torch.ones(grid.height, grid.width))
        height, width = features.picture
        # Where padding puts the centre of a cell does not matter here: a network trained on mirrored pictures too has
        # learned to look at both halves of a cell alike (measured: bottle AUPRO .945 -> .955, grid .939 -> .958).
        middle = (grid.stride - 1) / 2
        self.register_buffer("rows", to_pixels(height, grid.height, grid.stride, middle), persistent=False)
        self.register_buffer("columns", to_pixels(width, grid.width, grid.stride, middle), persistent=False)
        self.prior = MixturePrior(config.components, latent) if config.prior == "mixture" else None
        self.memory = MemoryBank(channels, AXES, config.neighbours) if config.neighbours else None
        self.cache: Path | None = None

    @torch.no_grad()
    def prepare(
        self, train: RowDataset, held: RowDataset, cache: Path | None, seed: int
    ) -> tuple[RowDataset, RowDataset]:
        """Standardised features (C,) of positions drawn from training and held-out pictures: what the loop reads.

        cache: the folder that feature maps are kept in.
        """
        self.cache = cache
        generator = torch.Generator().manual_seed(seed)
        rows = FeatureCache(train, self.features, cache).sample(TRAINED, generator)
        self.mean = rows.mean(0)
        deviation = rows.std(0)
        self.deviation = deviation.clamp(min=max(1e-6, FLOOR * float(deviation.median())))
        judged = FeatureCache(held, self.features, cache).sample(HELD, generator)
        return self._standardised(rows, train.device), self._standardised(judged, held.device)

    def _standardised(self, rows: Tensor, device: torch.device) -> RowDataset:
        return RowDataset(((rows - self.mean) / self.deviation).cpu().numpy(), device)

    @torch.no_grad()
    def fit(self, model: VAE, train: RowDataset, held: RowDataset, seed: int) -> None:
        """To positions of training pictures (as `prepare` gives them), then to whole held-out pictures."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(train), generator=generator)[:FITTED]
        x = train.take(chosen if train.pinned else chosen.to(train.device))
        outs = [model(part) for part in x.split(4096)]
        mu = torch.cat([out.mu for out in outs])
        residual = x - torch.cat([out.px.mean for out in outs])
        self.residual_mean = residual.mean(0)
        covariance = torch.cov((residual - self.residual_mean).T.double())
        covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=x.device)
        self.whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).float()
        if self.prior is not None:
            log_var = torch.cat([out.log_var for out in outs if out.log_var is not None])
            self.prior.fit(mu, log_var, seed)
        if self.memory is not None:
            self.memory.fit(x * self.deviation + self.mean, generator)
        self._calibrate(model, held)

    def _calibrate(self, model: VAE, held: RowDataset) -> None:
        """The unit of the neighbours part and the border, from held-out pictures."""
        self.unit.fill_(1.0)
        usual: dict[str, Tensor] = {}  # name -> (h, w), the mean over pictures
        for maps in FeatureCache(held, self.features, self.cache):
            for name, nats in self.nats(model, maps[None]).items():
                usual[name] = usual.get(name, torch.zeros(())) + nats[0].double() / len(held)
        if self.memory is not None:
            elbo = (usual["recon"] + usual["kl"]).mean()
            self.unit = (SHARE * elbo / usual["neighbours"].mean().clamp(min=1e-12)).clamp(min=0).float()
            usual["neighbours"] = usual["neighbours"] * self.unit
        if self.config.border:
            self.border = suppression(torch.stack(list(usual.values())).sum(0)).float()

    def nats(self, model: VAE, maps: Tensor) -> dict[str, Tensor]:
        """name -> (B, h, w) of feature maps (B, C, h, w), before the border is suppressed."""
        flat = maps.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, C)
        x = (flat - self.mean) / self.deviation
        out = model(x)
        parts = {
            "recon": self._recon(x, out),
            "kl": out.kl.sum(1) if self.prior is None else self.prior.kl(out.mu),
        }
        if self.memory is not None:
            parts["neighbours"] = self.unit * self.memory.squared(flat)
        return {name: part.unflatten(0, (-1, *maps.shape[2:])) for name, part in parts.items()}

    def _recon(self, x: Tensor, out: Output) -> Tensor:
        if self.config.recon == "likelihood":
            return elements(x, out).sum(1)
        return 0.5 * ((x - out.px.mean - self.residual_mean) @ self.whiten.T).square().sum(1)

    def forward(self, model: VAE, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(maps (B, *shape), parts name -> (B,)) in nats of pictures x (B, C, H, W) in 0-1.

        A picture's parts are those at the largest pixel of its map, so that their sum is that pixel. The channels of a
        map share its nats alike.
        """
        total, found = self.score(model, self.features(x))
        return (total[:, None] / x.shape[1]).expand_as(x), found

    def score(self, model: VAE, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(nats of pixels (B, H, W), parts name -> (B,)) of feature maps (B, C, h, w)."""
        parts = self.nats(model, maps)
        pixels = {name: self.pixels(part / self.border) for name, part in parts.items()}
        total = torch.stack(list(pixels.values())).sum(0)
        largest = total.flatten(1).argmax(1, keepdim=True)
        return total, {name: part.flatten(1).gather(1, largest)[:, 0] for name, part in pixels.items()}

    def pixels(self, cells: Tensor) -> Tensor:
        """(B, H, W), interpolated and blurred, of (B, h, w) at the cells of the grid."""
        found: Tensor = self.rows @ cells @ self.columns.T
        return found


def suppression(nats: Tensor) -> Tensor:
    """(h, w) divisors of at least 1: the mean nats (h, w) of cells as near to the border, over those of the inside.

    How near is a pair, the distance to the nearer of top and bottom and to the nearer of left and right, up to RINGS
    cells: in a corner two paddings meet. Small grids have fewer rings, so that an inside is left.
    """
    rings = min(RINGS, min(nats.shape) // 4)
    cells = [torch.arange(n, device=nats.device) for n in nats.shape]
    down, right = (torch.minimum(i, len(i) - 1 - i).clamp(max=rings) for i in cells)
    kind = (down[:, None] * (rings + 1) + right).flatten()  # (h * w,), the inside last
    sums = nats.new_zeros(2, (rings + 1) ** 2).index_add_(
        1, kind, torch.stack([nats.flatten(), torch.ones_like(nats).flatten()])
    )
    usual = sums[0] / sums[1].clamp(min=1)
    return (usual / usual[-1].clamp(min=1e-12)).clamp(min=1)[kind].view_as(nats)


def to_pixels(size: int, cells: int, stride: int, centre: float) -> Tensor:
    """(size, cells): from cells, cell i at pixel stride * i + centre, to pixels, by linear interpolation and a Gaussian
    blur that reflects at the border."""
    reach = min(int(4 * BLUR), size - 1)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / BLUR) ** 2)
    blur = np.zeros((size, size))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        at = np.abs(np.arange(size) + offset)
        np.add.at(blur, (np.arange(size), np.where(at >= size, 2 * size - 2 - at, at)), weight)
    linear = interpolation(size, 1, 0.0, cells, stride, centre).double()
    return (torch.from_numpy(blur) @ linear).float()
