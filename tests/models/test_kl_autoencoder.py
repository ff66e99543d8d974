"""The spatial latent of an eighth of the sides, and weights of diffusers' AutoencoderKL, computed by both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.detector.detector import Detector
from anomaly_vae.models.kl_autoencoder import KLAutoencoder
from anomaly_vae.models.pretrained import adapted, load_into
from anomaly_vae.training import loop

BASE = {"kind": "kl_autoencoder", "likelihood": "gaussian", "sigma": "shared", "sigma_min": 0.1, "sigma_value": 0.5}


def config(**settings: object) -> ModelConfig:
    return ModelConfig.model_validate(BASE | {"latent": 4, "blocks": 1, "channels": (4, 4, 4, 4)} | settings)


@pytest.mark.parametrize(("side", "small"), [(16, 2), (64, 8), (20, 3)])
def test_the_sides_are_halved_three_times(side: int, small: int) -> None:
    model = KLAutoencoder(config(), (3, side, side)).eval()
    assert model.map == (4, small, small)
    x = torch.rand(2, 3, side, side)
    assert model.code(x).shape == (2, 4 * small * small)
    assert model(x).px.mean.shape == x.shape


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny AutoencoderKL of random weights, saved as a published one is."""
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=3, norm_num_groups=32, sample_size=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("published") / "vae"
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_published_weights_compute_what_diffusers_computes(published: Path) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(published).eval()
    found = adapted(config(pretrained=str(published)))
    assert (found.channels, found.blocks, found.latent) == ((32, 64), 1, 3)
    ours = KLAutoencoder(found, (3, 16, 16)).eval()
    load_into(ours, str(published))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    posterior = theirs.encode(2 * x - 1).latent_dist
    mu, log_var = ours.encode(x)
    torch.testing.assert_close(mu, posterior.mean.flatten(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_var, posterior.logvar.flatten(1).clamp(-8, 4), atol=1e-5, rtol=1e-5)
    decoded = (theirs.decode(posterior.mean).sample + 1) / 2
    torch.testing.assert_close(ours.decode(mu).mean, decoded, atol=1e-5, rtol=1e-5)
    assert decoded.std() > 0.01


def test_a_fit_starts_from_published_weights_and_no_longer_needs_them(
    published: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STEPS", 1)
    colour = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    pretrained = {"model__kind": "kl_autoencoder", "model__pretrained": str(published)}
    detector = Detector.fit(colour, training__steps=1, training__lr=1e-12, **pretrained)
    reference = KLAutoencoder(adapted(config(pretrained=str(published))), (3, 8, 8))
    load_into(reference, str(published))
    found, expected = detector.score_model.model.state_dict(), reference.state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected if "head" not in name)
    detector.save("detector")
    published.rename(published.with_name("gone"))
    again = Detector.load("detector")
    np.testing.assert_array_equal(again.score(colour), detector.score(colour))
    published.with_name("gone").rename(published)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "VQModel"}, "a VQModel of diffusers; an AutoencoderKL would work"),
        ({"act_fn": "gelu"}, "with act_fn=gelu, which is not supported"),
        ({"norm_num_groups": 8}, "with norm_num_groups=8"),
    ],
)
def test_a_folder_of_another_build_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    plain = {"_class_name": "AutoencoderKL", "block_out_channels": [32], "layers_per_block": 1, "latent_channels": 4}
    (tmp_path / "config.json").write_text(json.dumps(plain | changes))
    with pytest.raises(ConfigError, match=said):
        adapted(config(pretrained=str(tmp_path)))


def test_a_folder_without_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no AutoencoderKL of diffusers, which has a config\.json"):
        adapted(config(pretrained=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"is for model\.kind=kl_autoencoder, not vq"):
        adapted(config(kind="vq", pretrained=str(tmp_path)))


def test_grey_pictures_do_not_fit_colour_weights(published: Path) -> None:
    model = KLAutoencoder(adapted(config(pretrained=str(published))), (1, 16, 16))
    with pytest.raises(ConfigError, match=r"it reads 3 channels \(data\.channels\)"):
        load_into(model, str(published))
