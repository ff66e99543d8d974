"""Spaces that rows are compared in, and the parts there, against SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.covariance import empirical_covariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from anomaly_vae.models.inputs import RowInputs
from anomaly_vae.scoring.parts import spaces
from anomaly_vae.scoring.parts.base import Batch, Normals, Part
from anomaly_vae.scoring.parts.copula import CopulaOutlierFactor
from anomaly_vae.scoring.parts.local_outlier import LocalOutlierFactor
from anomaly_vae.scoring.parts.principal_components import PrincipalComponents
from anomaly_vae.scoring.parts.quantiles import QuantileOutlierFactor
from anomaly_vae.scoring.parts.spaces import Columns, NormalScores, Space, Whitened
from anomaly_vae.scoring.parts.whitened import WhitenedOutlierFactor

Array = NDArray[np.float64]


def fitted(space: Space, x: Tensor) -> Array:
    space.fit(x)
    return np.asarray(space(x), np.float64)


def rows(columns: int, n: int = 400, seed: int = 0) -> Tensor:
    """Correlated numbers of several distributions, standardised, and the asinh of each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns)) @ (np.eye(columns) + 0.5 * rng.normal(size=(columns, columns)))
    x[:, ::2] = np.exp(x[:, ::2] / x[:, ::2].std(0))
    x = (x - x.mean(0)) / x.std(0)
    return torch.from_numpy(np.c_[x, np.arcsinh(x)]).float()


def test_a_number_that_is_read_twice_is_one_column() -> None:
    inputs = RowInputs((0, 3, 0, 0, 0))  # two numbers and a category of three; their asinh
    x = torch.tensor([[1.0, 2, -1, 0.5, -0.5], [math.nan, 0, 2, 0.1, 0.2]])
    assert Columns(inputs)(x).tolist() == [[1, -1, 0, 0, 1], [0, 2, 1, 0, 0]]
    assert Columns(inputs).width == 5


def test_normal_scores_are_quantiles_of_ranks() -> None:
    rng = np.random.default_rng(1)
    x = np.c_[np.exp(rng.normal(size=100)), rng.integers(0, 4, 100)]
    x = (x - x.mean(0)) / x.std(0)
    space = NormalScores(RowInputs((0, 0, 0, 0)))
    found = fitted(space, torch.from_numpy(np.c_[x, np.arcsinh(x)]).float())
    scores = norm.ppf((rankdata(x, axis=0) - 0.5) / 100)  # ties at their middle
    np.testing.assert_allclose(found, scores + 0.1 * x, atol=1e-5)
    ends = space(torch.tensor([[-900.0, 3.0, 0, 0], [900.0, math.nan, 0, 0]]))
    assert ends[:, 0].tolist() == pytest.approx([norm.ppf(0.005) - 2, norm.ppf(0.995) + 2], abs=1e-5)
    assert ends[1, 1] == 0


def test_many_values_are_told_by_few_knots_and_none_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5000, 2, generator=torch.Generator().manual_seed(2))
    x[:, 1] = math.nan
    found = fitted(NormalScores(RowInputs((0, 0, 0, 0))), torch.cat([x, x.asinh()], 1))
    value = x[:, 0].double().numpy()
    central = np.abs(value) < 2.5
    expected = norm.ppf((rankdata(value) - 0.5) / 5000) + 0.1 * value
    np.testing.assert_allclose(found[central, 0], expected[central], atol=0.05)
    assert (found[:, 1] == 0).all()
    exact = NormalScores(RowInputs((0, 0)))
    exact.fit(x.asinh())
    searched = exact(x)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(exact(x), searched)


def test_whitened_rows_have_the_distances_of_mahalanobis() -> None:
    x = rows(4)
    space = Whitened(Columns(RowInputs((0,) * 8)))
    found = fitted(space, x)
    numbers = x[:, :4].double().numpy()
    covariance = empirical_covariance(numbers)
    inverse = np.linalg.inv(covariance + 0.01 * np.trace(covariance) / 4 * np.eye(4))
    offset = numbers[1:] - numbers[0]
    expected = np.einsum("nj,jk,nk->n", offset, inverse, offset)
    np.testing.assert_allclose(((found[1:] - found[0]) ** 2).sum(1), expected, rtol=1e-4)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    assert space(torch.full((1, 8), 1e6)).abs().max() == spaces.MOST


@pytest.mark.parametrize("part_class", [QuantileOutlierFactor, WhitenedOutlierFactor, CopulaOutlierFactor])
def test_an_outlier_factor_is_that_of_its_space(part_class: type[LocalOutlierFactor]) -> None:
    x, asked = rows(4), rows(4, 30, 3) * 1.5
    inputs = RowInputs((0,) * 8)
    part = part_class(inputs, 0, 5000)
    part.fit(normals_of(x))
    space = part_class.space_of(inputs)
    there = fitted(space, x)[torch.randperm(400, generator=torch.Generator().manual_seed(0)).numpy()]
    here = np.asarray(space(asked), np.float64)
    near = NearestNeighbors(n_neighbors=11).fit(there).kneighbors(there)[0][:, 1:]
    own = near.mean(1)
    least = 0.02 * np.median(own)
    unit = 1 / np.log(near[:, -1:] / near[:, :-1]).mean()
    squared = ((here[:, None] - there) ** 2).sum(2) + least**2
    expected = unit * 0.5 * np.log((squared / own**2).reshape(30, 8, 50).min(2)).mean(1)
    np.testing.assert_allclose(nats_of(part, asked), expected, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("columns", [1, 6])
def test_pca_leaves_what_that_of_scikit_learn_leaves(columns: int) -> None:
    x, asked = rows(columns), rows(columns, 30, 3) * 1.5
    inputs = RowInputs((0,) * 2 * columns)
    part, space = PrincipalComponents(inputs), NormalScores(inputs)
    part.fit(normals_of(x))
    there, here = fitted(space, x), np.asarray(space(asked), np.float64)
    if columns == 1:  # the last axis is left at least
        expected = 0.5 * ((here - there.mean(0)) ** 2).sum(1) / there.var()
    else:
        pca = PCA(0.9, svd_solver="full").fit(there)
        left = here - pca.inverse_transform(pca.transform(here))
        unit = PCA().fit(there).explained_variance_[pca.n_components_ :].mean() * 399 / 400
        expected = 0.5 * (left**2).sum(1) / unit
    np.testing.assert_allclose(nats_of(part, asked), expected, rtol=1e-3, atol=1e-4)


def normals_of(x: Tensor) -> Normals:
    nobody = torch.empty(0, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    return Normals(None, 0, generator, len(x), 0, lambda: x, lambda: (x[:0], nobody))  # type: ignore[arg-type]


def nats_of(part: Part, x: Tensor) -> Array:
    return np.asarray(part.nats(Batch(x, None, x)), np.float64)  # type: ignore[arg-type]
