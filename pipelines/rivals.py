"""The same training with other code: a plain PyTorch loop, pythae and, for rows, PyOD's VAE."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_vae.models.base import VAE
from anomaly_vae.models.conv import ConvVAE
from anomaly_vae.models.dense import DenseVAE

Train = Callable[[], object]


class Plain(nn.Module):
    """A VAE as in a tutorial: an nn.Sequential each for encoder and decoder, float32, with the layers of our model."""

    def __init__(self, down: nn.Module, up: nn.Module, latent: int) -> None:
        super().__init__()
        self.down, self.up, self.latent = down, up, latent

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.down(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
        return self.up(z), mu, log_var


def plain(model: VAE) -> nn.ModuleList:
    """The members of one of our models as plain networks with the same layers."""
    if isinstance(model, ConvVAE):
        down = nn.Sequential(*model.down, nn.Flatten(), *model.squeeze, model.posterior)
        return nn.ModuleList([Plain(down, nn.Sequential(*model.expand, *model.up), model.latent)])
    if isinstance(model, DenseVAE):
        latent = model.latent // model.members
        return nn.ModuleList(
            Plain(_mlp(list(model.down), member), _mlp(list(model.up), member), latent)
            for member in range(model.members)
        )
    parts: Any = model  # the VAE of features
    return nn.ModuleList(
        [Plain(nn.Sequential(*parts.down, parts.posterior), nn.Sequential(*parts.up, parts.out), model.latent)]
    )


def _mlp(weights: list[nn.Parameter], member: int) -> nn.Sequential:
    """One member of batched layers (M, in, out) as linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for index in range(0, len(weights), 2):
        linear = nn.Linear(*weights[index].shape[1:])
        with torch.no_grad():
            linear.weight.copy_(weights[index][member].T)
            linear.bias.copy_(weights[index + 1][member, 0])
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def plain_loop(data: Tensor, model: VAE, batch: int, device: torch.device) -> Train:
    """A function that trains one epoch with a DataLoader and Adam, and reads the loss after each batch."""
    members = plain(model).to(device)
    optimizer = torch.optim.Adam(members.parameters(), 1e-3)
    dataset = TensorDataset(_scaled(data))

    def train() -> float:
        total = 0.0
        for (x,) in DataLoader(dataset, batch, shuffle=True):
            x = x.to(device)
            optimizer.zero_grad()
            loss = sum((_loss(x, *member(x)) for member in members), torch.zeros((), device=device))
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return train


def _loss(x: Tensor, decoded: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """The mean over a batch of the squared error, or of the Gaussian NLL if the scale is decoded, plus the KL."""
    parameters = decoded.chunk(2, dim=1) if decoded.shape[1] == 2 * x.shape[1] else (decoded,)
    error = (x - parameters[0]).square()
    nats = error if len(parameters) == 1 else 0.5 * error * torch.exp(-2 * parameters[1]) + parameters[1]
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var)
    return (nats.flatten(1).sum(1) + kl.sum(1)).mean()


def pythae_loop(data: Tensor, model: VAE, batch: int) -> Train:
    """A function that trains one epoch with pythae's trainer and the same network.

    Raises ImportError without the extra `bench`.
    """
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    network: Any = plain(model)[0]

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.down = network.down

        def forward(self, x: Tensor) -> Any:
            mu, log_var = self.down(x).chunk(2, dim=1)
            return ModelOutput(embedding=mu, log_covariance=log_var)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.up = network.up

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.up(z))

    config = VAEConfig(input_dim=tuple(data.shape[1:]), latent_dim=network.latent, reconstruction_loss="mse")
    theirs = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    rows = _scaled(data)
    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.CRITICAL)

    from pythae.data.datasets import BaseDataset

    def train() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            settings = BaseTrainerConfig(
                output_dir=folder, num_epochs=1, per_device_train_batch_size=batch, learning_rate=1e-3
            )
            BaseTrainer(theirs, BaseDataset(rows, torch.ones(len(rows))), training_config=settings).train()

    return train


def pyod_vae(batch: int, epochs: int) -> Any:
    """PyOD's VAE with the layers of ours for tables. Raises ImportError without the extra `bench`."""
    from pyod.models.vae import VAE as PyodVAE

    return PyodVAE(
        epoch_num=epochs,
        batch_size=batch,
        encoder_neuron_list=[64, 64],
        decoder_neuron_list=[64, 64],
        latent_dim=16,
        dropout_rate=0.0,
        verbose=0,
    )


def _scaled(data: Tensor) -> Tensor:
    return data.float() / 255 if data.dtype == torch.uint8 else data
