"""A prior fitted to the training posteriors afterwards, so that the KL measures how ordinary a posterior is.

N(0, I) is what the encoder was pulled towards, not where the posteriors of normal data ended up: much of its mass is
empty. With a mixture fitted to the aggregate posterior as prior ("ex-post density estimation", Ghosh 2020) the score
stays reconstruction plus KL, and a posterior in a gap is far from the prior.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from anomaly_vae.core.config import ScoringConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models.base import VAE
from anomaly_vae.scoring.parts.base import Batch, Normals, Part

ROWS_PER_AXIS = 8  # posteriors that a component needs for each latent axis: a full covariance has as many per axis
RIDGE = 1e-2  # of a covariance, in units of the mean variance of a latent axis
ROWS = 20_000  # posteriors at most that the mixture is fitted to


class MixturePrior(Part):
    """sum_k w_k N(m_k, S_k) with full covariances, over posteriors N(mu, V) of one variance V, the mean over training.

    `kl` is the variational upper bound of Hershey & Olsen (2007), -log sum_k w_k exp(-KL(N(mu, V) || N(m_k, S_k))):
    exact for one component, never below the KL of N(mu, V) to the mixture. A sample's own variance is not read: where
    it differs from V, `kl` is not the KL of its own posterior, and the score is no bound on -log p(x).
    """

    column, sized_by_fit = "kl", ("means", "whiten", "constant", "weights")
    means: Tensor  # (K, D)
    whiten: Tensor  # (K, D, D): |whiten_k (mu - m_k)|^2 is the squared Mahalanobis distance
    constant: Tensor  # (K,) nats: log w_k less what of the KL does not depend on mu
    weights: Tensor  # (K,) w_k

    def __init__(self, components: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(components, latent))
        self.register_buffer("whiten", torch.eye(latent).repeat(components, 1, 1))
        self.register_buffer("constant", torch.full((components,), -math.log(components)))
        self.register_buffer("weights", torch.full((components,), 1 / components))

    @classmethod
    def of(cls, model: VAE, config: ScoringConfig, shape: tuple[int, ...]) -> MixturePrior:
        if not model.diagonal:
            raise ConfigError(
                "scoring.prior=mixture is fitted to Gaussian posteriors, which this kind of model does not have;"
                " scoring.prior=normal, the prior it was trained with, would work"
            )
        return cls(config.components, model.latent)

    def fit(self, normals: Normals) -> None:
        mu, log_var = [], []
        for batch in normals.batches(normals.train()):
            assert batch.out.log_var is not None
            mu.append(batch.out.mu)
            log_var.append(batch.out.log_var)
        self.fit_posteriors(torch.cat(mu), torch.cat(log_var), normals.seed, normals.n_train)

    def nats(self, batch: Batch) -> Tensor:
        return self.kl(batch.out.mu)

    @staticmethod
    def supported(wanted: int, rows: int, latent: int) -> int:
        """How many components so many posteriors can tell apart, at most `wanted`."""
        return max(1, min(wanted, rows // (ROWS_PER_AXIS * latent)))

    def fit_posteriors(self, mu: Tensor, log_var: Tensor, seed: int, n_train: int) -> None:
        """To posteriors mu, log_var (N, D) of some of the n_train training samples, by expectation maximisation
        (scikit-learn). Keeps no more components than so many samples can tell apart."""
        from sklearn.mixture import GaussianMixture

        points = mu.double().cpu().numpy()
        if len(points) > ROWS:
            points = points[np.random.default_rng(seed).permutation(len(points))[:ROWS]]
        ridge = RIDGE * float(points.var(0).mean()) + 1e-9
        components = self.supported(len(self.means), n_train, mu.shape[1])
        mixture = GaussianMixture(components, reg_covar=ridge, max_iter=30, tol=1e-3, random_state=seed % 2**32)
        with _unconverged_is_fine():
            mixture.fit(points)
        self.means, self.whiten, self.constant, self.weights = (  # the first components are then overwritten
            buffer[:components].clone() for buffer in (self.means, self.whiten, self.constant, self.weights)
        )
        variance = log_var.double().exp().mean(0).cpu()  # (D,) pooled
        for k, (weight, mean, covariance) in enumerate(
            zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
        ):
            total = torch.from_numpy(covariance) + torch.diag(variance)  # the aggregate posterior's own covariance
            lower = torch.linalg.cholesky(total)
            whiten = torch.linalg.solve_triangular(lower, torch.eye(len(variance), dtype=torch.float64), upper=False)
            trace = (whiten.square() * variance).sum()
            log_ratio = 2 * lower.diagonal().log().sum() - variance.log().sum()
            self.means[k], self.whiten[k] = torch.from_numpy(mean).float(), whiten.float()
            self.weights[k] = float(weight)
            self.constant[k] = math.log(weight) - 0.5 * (log_ratio + trace - len(variance))

    def kl(self, mu: Tensor) -> Tensor:
        """(B,) nats of posteriors with means mu (B, D)."""
        means = (self.whiten @ self.means[:, :, None]).flatten()  # (K * D,) whitened, as all of mu are in one product
        offsets = torch.nn.functional.linear(mu, self.whiten.flatten(0, 1), -means).unflatten(1, self.means.shape)
        squared = torch.linalg.vector_norm(offsets, dim=2).square()  # (B, K)
        return -torch.logsumexp(self.constant - 0.5 * squared, dim=1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, D) draws of the mixture, which are samples of where training data lies in latent space."""
        device = self.means.device
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)  # (n,)
        noise = torch.randn(n, self.means.shape[1], 1, generator=generator, device=device)
        offsets: Tensor = torch.linalg.solve_triangular(self.whiten[which], noise, upper=False)[..., 0]
        return self.means[which] + offsets


class _unconverged_is_fine:
    """30 rounds of expectation maximisation are enough for a density; scikit-learn's warning is not for the user."""

    def __enter__(self) -> None:
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore", ConvergenceWarning)

    def __exit__(self, *error: object) -> None:
        self.caught.__exit__(*error)  # type: ignore[arg-type]
