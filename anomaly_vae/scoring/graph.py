"""A detector as one module over raw values: scaler, network and score, for `export` to write as a graph.

The scaler and the folding of windows are NumPy elsewhere, where files are streamed, and here the same formulas on
tensors, over everything at once. Scaling has two implementations because the one that can be traced takes 1225 ns a row
of 20 columns where NumPy takes 208 (one core of an EPYC, blocks of 65,536 rows), and `torch.asinh` differs from
`np.arcsinh` in the last bit of a tenth of all float64 cells; folding has two because a stream holds only the steps that
a later window can reach. `tests/workflows/test_export.py` compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_vae.data.scaling import Scaler
from anomaly_vae.scoring.parts.sensor_level import step_nats
from anomaly_vae.scoring.score_model import ScoreModule

BIG = float(torch.finfo(torch.float32).max)  # of a part beyond float32's range


class Scaled(nn.Module):
    """`Scaler.transform` of rows (N, F), or of the consecutive steps of one series: (N, E) float32."""

    shift: Tensor  # (E,) as all of these
    scale: Tensor
    centre: Tensor
    spread: Tensor
    column: Tensor
    is_asinh: Tensor
    is_difference: Tensor

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.limit = scaler.limit
        for name in ("shift", "scale", "centre", "spread"):
            values = [getattr(element, name) for element in scaler.elements]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        self.register_buffer("column", torch.from_numpy(scaler.column))
        self.floors = [(floor.column, floor.value) for floor in scaler.floors]
        hows = [element.how for element in scaler.elements]
        self.asinh, self.difference = "asinh" in hows, "difference" in hows
        self.register_buffer("is_asinh", torch.tensor([how == "asinh" for how in hows]))
        self.register_buffer("is_difference", torch.tensor([how == "difference" for how in hows]))

    def raised(self, values: Tensor) -> Tensor:
        """`Scaler.raised`."""
        columns = list(values.unbind(1)) if self.floors else []
        for column, floor in self.floors:
            columns[column] = torch.where(columns[column] < floor, floor, columns[column])
        return torch.stack(columns, dim=1) if columns else values

    def forward(self, values: Tensor) -> Tensor:
        x = values.double()[:, self.column]
        scaled = (x - self.shift) / self.scale
        if self.asinh:
            # written out, for ONNX's runtimes have asinh in float32 alone; what overflows is clipped below
            size = scaled.abs()
            scaled = torch.where(self.is_asinh, scaled.sign() * torch.log(size + (size * size + 1).sqrt()), scaled)
        if self.difference:
            steps = torch.cat([torch.zeros_like(x[:1]), x[1:] - x[:-1]])
            scaled = torch.where(self.is_difference, steps / self.scale, scaled)
        scaled = (scaled - self.centre) / self.spread
        # a comparison with NaN is false: a missing cell stays missing
        scaled = torch.where(scaled > self.limit, self.limit, scaled)
        return torch.where(scaled < -self.limit, -self.limit, scaled).float()


class RowGraph(nn.Module):
    """Rows (B, F) float64, or pictures (B, C, H, W) uint8, to score and parts, each (B,) float64 nats."""

    def __init__(self, net: ScoreModule, scaler: Scaler) -> None:
        super().__init__()
        self.net = net
        self.names = net.model_parts
        self.scaled = Scaled(scaler) if scaler.elements else None

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        values = values if self.scaled is None else self.scaled.raised(values)
        x = self.scaled(values) if self.scaled is not None else values.float() / 255
        parts = self.net(x)[1]
        return _scored([parts[name].double() for name in self.names], values, self.net)


class SeriesGraph(nn.Module):
    """Consecutive steps (N, C) float64 of one machine, at least a window of them, to score and parts, (N,) each.

    Windows are cut, scored and folded back as by `WindowFolder`: every T // 8 steps and one at the end; a step's
    residual is the mean over the windows that cover it, and the KL of a window is shared by its steps.
    """

    def __init__(self, net: ScoreModule, scaler: Scaler, window: int) -> None:
        super().__init__()
        self.net, self.scaled, self.window, self.stride = net, Scaled(scaler), window, max(1, window // 8)

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        values = self.scaled.raised(values)
        x = self.scaled(values)  # (N, E)
        n, t = x.shape[0], self.window
        windows = torch.arange((n - t) // self.stride + 2, device=x.device)  # (W,)
        starts = (windows * self.stride).clamp(max=n - t)
        # the last window stands at the end, and counts where the grid does not end there itself
        doubled = windows * self.stride >= n - t + self.stride
        weight = torch.where(doubled, 0.0, 1.0).double()
        rows = starts[:, None] + torch.arange(t, device=x.device)  # (W, T)
        found, parts = self.net(x[rows].transpose(1, 2))  # (W, E, T)
        count = _gathered(rows, weight[:, None, None].expand(-1, t, 1), n)  # (N, 1)
        each = found.double().transpose(1, 2) * weight[:, None, None]
        mean = _gathered(rows, each, n) / count  # (N, E)
        shared = []  # the KL, and what else there is of windows
        for name, nats in parts.items():
            if name != "recon":
                share = (nats.double() * weight / t)[:, None, None].expand(-1, t, 1)
                shared.append((_gathered(rows, share, n) / count)[:, 0])
        level = self.net.level
        of_steps = mean.split(x.shape[1], 1) if level is None else step_nats(mean, *level.measures())
        found = dict(zip(self.net.step_columns, (nats.sum(1) for nats in of_steps), strict=True))
        found |= dict(zip(self.net.shared_columns, shared, strict=True))
        return _scored([found[name] for name in self.net.model_parts], values, self.net)


def _scored(parts: list[Tensor], values: Tensor, net: ScoreModule) -> tuple[Tensor, ...]:
    """The score and its parts, from those of the model; beyond float32's range as large as can be said, never a NaN."""
    if net.missing is not None:
        parts[0] = parts[0] + net.missing.charge(values).sum(1)
    cells = net.cell_parts.values()
    raw = [*parts, *(part.nats(values) for part in cells)]
    finite = torch.stack([torch.where(torch.isnan(part), BIG, part).clamp(max=BIG) for part in raw])
    nats = finite
    if net.surprise is not None:
        n = len(net.surprise.knots)
        nats = torch.cat([net.surprise(finite[:n]), finite[n:]])
    if net.part_weights is not None:
        nats = nats * net.part_weights[:, None]
    if cells:
        alarms = torch.stack([part.alarm * part.alarms(values).sum(1) for part in cells])
        nats = torch.cat([nats[: len(parts)], nats[len(parts) :] + alarms])
    return (nats.sum(0), *nats.unbind())


def _gathered(rows: Tensor, values: Tensor, n: int) -> Tensor:
    """(n, K) sums of values (W, T, K) by the row (W, T) that each belongs to."""
    zeros = torch.zeros(n, values.shape[2], dtype=values.dtype, device=values.device)
    return zeros.index_put((rows,), values, accumulate=True)
