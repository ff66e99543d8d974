"""How probable it is that these cells of a row are missing and the others are not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_vae.data.kinds import KINDS
from anomaly_vae.data.source import Layout
from anomaly_vae.scoring.parts.base import CellPart

PATTERNS, OFTEN = 64, 5  # patterns at most that are known as a whole, and the rows from which one is
SAVED = math.log(2)  # nats that knowing one must save
COUNTED = 100_000  # patterns that are counted at once; then those that came once are forgotten


class Missing(CellPart):
    """-log p of which cells are missing, less that of the most usual pattern: 0 for a usual row.

    Each column is missing by a Bernoulli of its own, (k + 1/2) / (n + 1) for k of n training rows (Jeffreys). Columns
    that are missing together, such as a panel that was not measured, would be counted once each; so a pattern of
    missing cells that k rows share is known as a whole, with its own share of the rows, and a row is described by
    independent columns, or by a pattern and the cells that differ from it, whichever takes the fewest nats.

    A step of a series in which a sensor is silent that never was is an alarm, and so is a row of a table without a
    value in any column that the model reads, if there never was such a row.
    """

    column, sized_by_fit = "missing", ("offset", "weight")
    known: Tensor  # (F,) 1, and 0 for a column that was empty in training: that it is so says nothing
    offset: Tensor  # (P,) nats of a row without a missing cell, described by each pattern, less the most usual row's
    weight: Tensor  # (P, F) what a missing cell adds
    odds: Tensor  # (F,) nats by which a cell's being missing is rarer than its not being so
    usual: Tensor  # (F,) nats that a missing cell counts with in recon, where the score is the sum of raw nats
    judged: Tensor  # (F,) the cells of which `needed` missing ones are an alarm
    needed: Tensor  # ()

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        columns = len(layout.columns)
        known = torch.tensor([column.categories != () for column in layout.columns], dtype=torch.float64)
        self.register_buffer("known", known, persistent=False)
        self.read, self.ordered = len(layout.read), KINDS[layout.kind].ordered
        for name, shape in (("offset", (1,)), ("weight", (1, columns)), ("odds", (columns,)), ("usual", (columns,)),
                            ("judged", (columns,)), ("needed", ())):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def fit(self, train: Iterable[NDArray[np.float64]], held: Iterable[NDArray[np.float64]]) -> None:
        """To the values (N, F) of training rows and of held-out normals, piece after piece."""
        counts: Counter[bytes] = Counter()
        known = self.known.cpu().numpy() > 0
        rows, missing, silent = 0, np.zeros(len(known)), np.zeros(len(known), bool)
        nothing = False  # whether there was a row without any value that the model reads
        for learned, pieces in ((True, train), (False, held)):
            for values in pieces:
                absent = np.isnan(values) & known
                silent |= absent.any(axis=0)
                nothing = nothing or bool(absent[:, : self.read].all(axis=1).any())
                if learned:
                    rows, missing = rows + len(values), missing + absent.sum(axis=0)
                    some = absent[absent.any(axis=1)]
                    counts.update(bytes(row) for row in np.packbits(some, axis=1))
                    counts[bytes((len(known) + 7) // 8)] += len(values) - len(some)
                    if len(counts) > COUNTED:
                        counts = Counter({pattern: count for pattern, count in counts.items() if count > 1})
        self._fit_shares(missing, rows, counts)
        first = np.arange(len(known)) < self.read
        judged = ~silent & known if self.ordered else first & (not nothing)
        self.judged = torch.from_numpy(judged).double()
        self.needed = torch.tensor(1.0 if self.ordered else max(1.0, judged.sum()), dtype=torch.float64)

    def _fit_shares(self, missing: NDArray[np.float64], rows: int, counts: Counter[bytes]) -> None:
        """missing: (F,) in how many of the rows each column is. counts: the rows of each pattern, packed."""
        known, columns = self.known.cpu().numpy(), len(missing)
        share = (missing + 0.5) / (rows + 1)
        odds = known * (np.log1p(-share) - np.log(share))
        mode = odds < 0
        independent = -np.log(np.where(mode, share, 1 - share))[known > 0].sum()  # nats of the mode
        offsets, weights = [independent + np.abs(odds[mode]).sum()], [odds]
        for packed, count in counts.most_common(PATTERNS):
            pattern = np.unpackbits(np.frombuffer(packed, np.uint8), count=columns).astype(bool)
            whole = -math.log((count + 0.5) / (rows + 1))
            if count < OFTEN or whole > offsets[0] + weights[0][pattern].sum() - SAVED:
                continue
            # another cell than the pattern's never came in its rows, and may be rare in all
            differing = np.maximum(math.log(2 * count + 2), np.where(pattern, -odds, odds)) * known
            offsets.append(whole + differing[pattern].sum())
            weights.append(np.where(pattern, -differing, differing))
        offset, weight = np.array(offsets), np.stack(weights)
        least = (offset + np.minimum(weight, 0).sum(axis=1)).min()  # of the most usual pattern
        self.offset, self.weight, self.odds = map(torch.from_numpy, (offset - least, weight, odds))

    def nats(self, values: Tensor) -> Tensor:
        absent = self._absent(values)
        return (self.offset + absent @ self.weight.T).amin(1).clamp(min=0)

    def elements(self, values: Tensor) -> Tensor:
        """Shared in proportion to what each cell would have, were the columns independent."""
        alone = torch.where(torch.isnan(values), self.odds, -self.odds).clamp(min=0) * self.known
        return alone * (self.nats(values) / alone.sum(1).clamp(min=1e-12))[:, None]

    def charge(self, values: Tensor) -> Tensor:
        """(N, F) nats that a missing cell would have in recon: without them an emptier row would look more normal."""
        return self._absent(values) * self.usual

    def alarms(self, values: Tensor) -> Tensor:
        silent = self._absent(values) * self.judged
        count = silent.sum(1, keepdim=True)
        return silent / count.clamp(min=1) * (count >= self.needed)

    def _absent(self, values: Tensor) -> Tensor:
        """(N, F) 1 where a cell is missing."""
        return torch.isnan(values).double() * self.known
