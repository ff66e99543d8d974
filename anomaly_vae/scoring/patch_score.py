"""The score of pictures from that of the positions of their feature maps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from anomaly_vae.data.datasets import RowDataset
from anomaly_vae.models.backbone import Backbone
from anomaly_vae.models.base import VAE
from anomaly_vae.models.feature_maps import FeatureMaps, interpolation
from anomaly_vae.scoring.parts.base import Batch, Normals
from anomaly_vae.scoring.parts.feature_cache import FeatureCache
from anomaly_vae.scoring.parts.memory_bank import MemoryBank
from anomaly_vae.scoring.parts.mixture_prior import MixturePrior
from anomaly_vae.scoring.score_model import ScoreModel, ScoreModule

TRAINED, HELD, FITTED = 200_000, 20_000, 200_000  # positions at most: to train on, to stop by, to fit the parts to
SIZE = 4096  # positions that the model reads at once while parts are fitted
FLOOR = 0.05  # of a channel's standard deviation, as a share of their median: a channel that never moved is no alarm
SHARE = 2.0  # of the neighbours part on held-out normals, in units of recon + kl
RINGS = 4  # cells from a side that may be suppressed
BLUR, WIDE = 4.0, 12.0  # pixels, standard deviations of the blur of maps, and of that of surroundings
SURROUNDINGS = 0.5  # share of a picture's score that is of its largest pixel's surroundings


class PatchScore(ScoreModule):
    """Feature maps, and a score of their positions ("patches"), which the model reads as standardised features (C,).

    The nats of positions are interpolated to pixels and blurred. A picture's parts are those at one pixel, averaged
    with those of its surroundings (a wider blur), where their sum is largest: a speckle of a normal picture may have as
    high a peak as a large faint stain, but nothing around it.

    The memory part is given the unit in which it is SHARE times recon + kl on held-out normals. Positions near the
    border are divided by how much more than the inside they cost on held-out normals, where it is more: what lies
    beyond the border is made up by padding. They are never raised: what is plain near the border of one picture may not
    be in the next.
    """

    reconstructs, maps_are_scores, has_density = False, True, False
    frozen_prefix, from_held = "features.backbone.", ("border",)
    mean_feature: Tensor  # (C,) of training positions
    deviation: Tensor  # (C,)
    border: Tensor  # (h, w) what nats are divided by, at least 1
    rows: Tensor  # (H, h) from cells to blurred pixels
    columns: Tensor  # (W, w)
    wide_rows: Tensor  # the same of surroundings
    wide_columns: Tensor
    surroundings: Tensor  # () their share

    def __init__(self, features: FeatureMaps, patches: ScoreModel, suppress_border: bool) -> None:
        super().__init__()
        self.features, self.patches, self.suppress_border = features, patches, suppress_border
        grid, channels = features.grid, features.channels
        self.register_buffer("mean_feature", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("border", torch.ones(grid.height, grid.width))
        height, width = features.picture
        # Where padding puts the centre of a cell does not matter here: a network trained on mirrored pictures too has
        # learned to look at both halves of a cell alike (measured: bottle AUPRO .945 -> .955, grid .939 -> .958).
        middle = (grid.stride - 1) / 2
        for name, blur in (("", BLUR), ("wide_", WIDE)):
            rows = to_pixels(height, grid.height, grid.stride, middle, blur)
            columns = to_pixels(width, grid.width, grid.stride, middle, blur)
            self.register_buffer(f"{name}rows", rows, persistent=False)
            self.register_buffer(f"{name}columns", columns, persistent=False)
        self.register_buffer("surroundings", torch.tensor(SURROUNDINGS))
        self.cache: Path | None = None

    @property
    def backbone(self) -> Backbone:
        return self.features.backbone

    @property
    def model(self) -> VAE:
        return self.patches.model

    @property
    def model_parts(self) -> tuple[str, ...]:
        return self.patches.model_parts

    @property
    def level(self) -> None:
        return None

    @property
    def prior(self) -> MixturePrior | None:
        return self.patches.prior

    @torch.no_grad()
    def prepare(
        self, train: RowDataset, held: RowDataset, cache: Path | None, seed: int
    ) -> tuple[RowDataset, RowDataset]:
        """Standardised features (C,) of positions drawn from training and held-out pictures."""
        self.cache = cache
        generator = torch.Generator().manual_seed(seed)
        rows = FeatureCache(train, self.features, cache).sample(TRAINED, generator)
        self.mean_feature = rows.mean(0)
        deviation = rows.std(0)
        self.deviation = deviation.clamp(min=max(1e-6, FLOOR * float(deviation.median())))
        judged = FeatureCache(held, self.features, cache).sample(HELD, generator)
        learned, judged = (self._standardised(some).cpu() for some in (rows, judged))
        return RowDataset(learned.numpy(), train.device), RowDataset(judged.numpy(), held.device)

    @torch.no_grad()
    def fit(self, train: RowDataset, held: RowDataset, seed: int) -> Tensor:
        """To positions of training pictures (as `prepare` gives them), then to whole held-out pictures."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(train), generator=generator)[:FITTED]
        x = train.take(chosen if train.pinned else chosen.to(train.device))
        maps = FeatureCache(held, self.features, self.cache)
        no_samples = torch.empty(0, dtype=torch.long)  # positions are no samples
        self.patches.fit_parts(
            Normals(
                self.model, seed, generator, len(train), len(held) * self.features.cells, lambda: x,
                lambda: (self._standardised(maps.sample(HELD, generator)), no_samples), SIZE,
                lambda x: x * self.deviation + self.mean_feature,
            )
        )  # fmt: skip
        if len(held):
            self._calibrate(maps)
        return torch.full((len(held),), -1)

    def _standardised(self, rows: Tensor) -> Tensor:
        return (rows - self.mean_feature) / self.deviation

    def _calibrate(self, held: FeatureCache) -> None:
        """The unit of the memory part and the border, from the feature maps of held-out pictures."""
        memory = self.patches.part(MemoryBank)
        if memory is not None:
            memory.unit.fill_(1.0)
        means: dict[str, Tensor] = {}  # column -> (h, w), the mean over pictures
        for maps in held:
            for name, nats in self.nats(maps[None]).items():
                means[name] = means.get(name, torch.zeros(())) + nats[0].double() / len(held)
        if memory is not None:
            usual = (means["recon"] + means["kl"]).mean()
            memory.unit = (SHARE * usual / means[memory.column].mean().clamp(min=1e-12)).clamp(min=0).float()
            means[memory.column] = means[memory.column] * memory.unit
        if self.suppress_border:
            self.border = suppression(torch.stack(list(means.values())).sum(0)).float()

    def nats(self, maps: Tensor) -> dict[str, Tensor]:
        """column -> (B, h, w) of feature maps (B, C, h, w), before the border is suppressed."""
        raw = maps.permute(0, 2, 3, 1).flatten(0, 2).contiguous()  # (B * h * w, C), a position's features together
        x = self._standardised(raw)
        parts = self.patches.nats(Batch(x, self.model(x), raw))
        return {name: part.unflatten(0, (-1, *maps.shape[2:])) for name, part in parts.items()}

    def forward(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Of pictures x (B, C, H, W) in 0-1. The channels of a map share its nats alike."""
        total, parts = self.score(self.features(x))
        return (total[:, None] / x.shape[1]).expand_as(x), parts

    def score(self, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(nats of pixels (B, H, W), column -> (B,)) of feature maps (B, C, h, w)."""
        cells = {name: part / self.border for name, part in self.nats(maps).items()}
        pixels = {name: self.pixels(part) for name, part in cells.items()}
        judged = {
            name: torch.lerp(pixels[name], self.wide_rows @ part @ self.wide_columns.T, self.surroundings)
            for name, part in cells.items()
        }
        largest = torch.stack(list(judged.values())).sum(0).flatten(1).argmax(1, keepdim=True)
        parts = {name: part.flatten(1).gather(1, largest)[:, 0] for name, part in judged.items()}
        return torch.stack(list(pixels.values())).sum(0), parts

    def pixels(self, cells: Tensor) -> Tensor:
        """(B, H, W), interpolated and blurred, of (B, h, w) at the cells of the grid."""
        pixels: Tensor = self.rows @ cells @ self.columns.T
        return pixels

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        state_dict.setdefault(
            f"{prefix}surroundings", torch.tensor(0.0)
        )  # folders that were saved before there were any
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def mean(self, x: Tensor) -> Tensor:
        raise NotImplementedError("a model of feature maps reconstructs no pictures")


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


def to_pixels(size: int, cells: int, stride: int, centre: float, blur: float = BLUR) -> Tensor:
    """(size, cells): from cells, cell i at pixel stride * i + centre, to pixels, by linear interpolation and a Gaussian
    blur of that many pixels that reflects at the border."""
    from scipy.ndimage import gaussian_filter1d

    linear = interpolation(size, 1, 0.0, cells, stride, centre).double().numpy()
    reach = min(int(4 * blur), size - 1)
    return torch.from_numpy(gaussian_filter1d(linear, blur, axis=0, mode="mirror", radius=reach)).float()
