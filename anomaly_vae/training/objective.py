"""The negative ELBO of a draw of z, defined once: the loss and the held-out loss are made of the same `terms`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_vae.core.config import ObjectiveConfig
from anomaly_vae.core.distributed import batch_means
from anomaly_vae.models.base import Output, elements

ACTIVE = 0.01  # variance of a posterior mean over the data above which a unit is active (Burda 2016, 5.2)


def terms(x: Tensor, out: Output) -> tuple[Tensor, Tensor]:
    """(recon, kl), each (B,), in nats, summed over elements and latent groups.

    Of an output whose z was drawn from q(z|x), recon + kl is an unbiased estimate of the negative ELBO.
    """
    return elements(x, out).flatten(1).sum(1), out.kl.sum(1)


def loss(
    x: Tensor, out: Output, config: ObjectiveConfig, beta: float | Tensor, capacity: float | Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, recon, kl): the scalar to minimise and the batch means, in nats a sample.

    capacity: nats; where it is given, beta times the distance of the batch-mean KL to it is charged (Burgess 2018), and
    free bits have no part.

    Free bits (Kingma 2016, C.8): the batch-mean KL of each latent group counts only above `free_bits`, and their sum
    only above `free_bits_total`, so that the optimiser gains nothing by switching a unit off. Members have theirs each:
    a column of theirs holds its share of the KL, and has the same share of `free_bits`. With beta = 1 and no free bits
    the loss is exactly the negative ELBO.
    """
    recon, kl = terms(x, out)
    aux = out.aux if isinstance(out.aux, Tensor) else torch.full_like(kl, out.aux)
    groups, recon, kl, aux = batch_means(out.kl, recon, kl, aux)
    if capacity is not None:
        return recon + beta * (kl - capacity).abs() + aux, recon, kl
    charged = groups.clamp(min=config.free_bits / out.members).sum().clamp(min=config.free_bits_total)
    return recon + beta * charged + aux, recon, kl


def perplexity(codes: Tensor) -> float:
    """exp of the entropy of codes (N, P): how many of a codebook's entries are in equal use."""
    share = codes.flatten().bincount().double() / codes.numel()
    return math.exp(-float(torch.special.xlogy(share, share).sum()))


def active_units(mu: Tensor) -> Tensor:
    """(D,) which latent units carry information: Var_x[E_q[z]] > 0.01 over the rows of mu (N, D) (Burda 2016)."""
    if len(mu) < 2:
        return torch.zeros(mu.shape[1], dtype=torch.bool, device=mu.device)
    return mu.var(0) > ACTIVE
