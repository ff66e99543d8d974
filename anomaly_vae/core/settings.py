"""Every setting with its default and description: the sections of a configuration.

Settings whose best value depends on the kind of data or on the model default to None; `detector.configuration.resolve`
fills them in.
"""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from anomaly_vae.core.registry import expected

# Upper bounds of sizes, far above what anyone computes: what exceeds them is a mistake, or an altered detector.
WIDEST, DEEPEST, LARGEST_SIDE = 1 << 20, 256, 1 << 14  # units of a layer, layers, pixels of a side
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=WIDEST)], ...], Field(max_length=DEEPEST)]

NO_TEST = {"train": 0.85, "valid": 0.15}  # the split where nothing can be tested and no row is kept for it
NETWORKS = ("dense", "conv1d", "conv2d")  # the networks that other models can be built around

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)  # of what is read from a detector's folder


class Policy(NamedTuple):
    """A rule for choosing a threshold: its name, and its number if it takes one."""

    name: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy of `youden`, `f1`, `fpr=RATE`, `recall=RATE`, `cost=RATIO`, `tail=RATE` or `events=RATE`, a day.

        Raises ValueError for any other text.
        """
        name, equals, number = text.partition("=")
        if name in ("youden", "f1") and not equals:
            return cls(name)
        if name in ("fpr", "recall", "cost", "tail", "events") and equals:
            try:
                value = float(number.removesuffix("/day") if name == "events" else number)
            except ValueError:
                value = -1.0
            is_any = name in ("cost", "events") and 0 < value < float("inf")
            if (0 < value < 1) or (name == "recall" and value == 1) or is_any:
                return cls(name, value)
        raise ValueError(
            f"'{text}' is no threshold policy; use youden, f1, fpr=0.01, recall=0.95, cost=10 (a miss costs 10 false"
            " alarms), tail=0.001 or events=1, a day (series)"
        )

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"


def one_of(registry: str) -> AfterValidator:
    """A validator that accepts None and the names that the validation's context lists for `registry`."""

    def check(value: str | None, info: ValidationInfo) -> str | None:
        names = (info.context or {}).get(registry)
        if value is not None and names is not None and value not in names:
            raise PydanticCustomError("literal_error", expected(names))
        return value

    check.registry = registry  # type: ignore[attr-defined]  # for `commented`
    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= c <= "\udfff" for c in text)):
                raise ValueError("no text in UTF-8, or with a zero byte, which no name has")
        return value


class DataConfig(Section):
    """How the input is read."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML's `normal: [3]` is the text 3 of a file

    path: str | None = Field(None, description="file or folder that `fit` reads where the command names none")
    kind: Annotated[str | None, one_of("kinds")] = Field(
        None, description="kind of data; None: recognised from the file"
    )
    label: str | None = Field(None, description="column that tells normal from anomalous; never an input of the model")
    normal: tuple[str, ...] = Field((), description="label values that count as normal; empty: 0, false, normal, good")
    unlabelled: Literal["leave_out", "normal"] = Field(
        "leave_out",
        description="rows whose label is empty: in no part of the split and in no metric, or taken as normal",
    )
    id: str | None = Field(None, description="column reported as id; None: row number, timestamp or file name")
    time: str | None = Field(None, description="time column of a series; None: recognised, or the order of the file")
    group: str | None = Field(None, description="column naming the machine of a series; windows never span two")
    calendar: Literal["auto", "none", "day", "week"] = Field(
        "auto",
        description="the longest cycle whose profile is taken off a series, by the clock: what is usual at a time of"
        " day, or of week too; auto: where training spans three of them and they explain more than chance",
    )
    drop: tuple[str, ...] = Field((), description="columns to leave out")
    skip: int | None = Field(None, ge=0, description="lines above the header of a text file; None: recognised")
    header: int | None = Field(
        None,
        ge=0,
        description="lines of the header: 0 for none, 1 for names, 2 for names and units below; None: recognised",
    )
    separator: Annotated[str | None, Field(min_length=1, max_length=1)] = Field(
        None, description="of the columns of a text file, a blank for a run of blanks; None: recognised"
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="decimal mark of numbers in text; None: the one that the cells of the column or file prove"
    )
    encoding: str | None = Field(None, description="of a text file, e.g. cp1252; None: UTF-8, or what its mark says")
    keep: tuple[str, ...] = Field(
        (), description="columns that are inputs though they are named like a label or look like an identifier"
    )
    missing: tuple[str, ...] = Field(
        (), description="further texts or numbers of a missing cell, e.g. -999; '-', 'n.a.', 'BDL' and such are known"
    )
    only_high: tuple[str, ...] = Field(
        (),
        description="columns of numbers that matter only when high, such as counts: a value below the training median"
        " counts as the median",
    )
    contamination: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="share of unlabelled rows that are anomalies, where it is known: so many train nothing; None: all"
        " train the detector, and the least suspicious three quarters the models that rank the rows; 0: all train both",
    )
    condition: tuple[str, ...] = Field(
        (),
        description="columns that a sample is judged under and that are never judged themselves: class, machine, mode;"
        " text and at most 20 whole numbers name classes (model.kind=conditional)",
    )
    shape: Widths | None = Field(None, description="(C, H, W) of one picture of a pixel table")
    size: int | None = Field(
        None, ge=4, le=LARGEST_SIDE, description="height and width that image files are resized to, pixels"
    )
    tile: int | None = Field(
        None,
        ge=8,
        le=LARGEST_SIDE,
        description="side of the tiles, pixels, that pictures of `size` are cut into; None: seen whole",
    )
    overlap: float = Field(0.25, ge=0, le=0.75, description="share of its side that a tile has in common with the next")
    object: str | None = Field(None, description="of a list of images with a column `object`, which one")
    max_pixels: int = Field(
        100_000_000,
        ge=1,
        le=1 << 40,
        description="pixels of the largest image file that is decoded; 4 bytes each, or more",
    )
    skip_broken: bool = Field(False, description="leave out, and name, image files that cannot be decoded")
    channels: Literal[1, 3] | None = Field(None, description="channels of image files; None: 1 if all are grey, else 3")
    window: int | None = Field(
        None, ge=4, le=WIDEST, description="time steps of one window of a series; None: from the rows"
    )
    memory: ByteSize = Field(
        ByteSize(1 << 26),
        ge=0,
        description="bytes of an array or table that fit holds in memory, e.g. 2GiB; larger ones live in files below"
        " tracking.folder/cache that are mapped, with the same result",
    )
    max_categories: int = Field(50, ge=2, le=WIDEST, description="a text column with more distinct values is free text")

    @property
    def written(self) -> dict[str, Any]:
        """The settings of how a text file is written that are given."""
        names = ("skip", "header", "separator", "decimal", "encoding")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError as error:
                raise PydanticCustomError("encoding", "no encoding that is known, such as utf-8 or cp1252") from error
        return value

    @field_validator("normal", "drop", "keep", "missing", "condition", "only_high", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value


class SplitConfig(Section):
    """Who trains, who chooses the threshold, who reports. A share of the rows (0-1) or a number of rows."""

    train: float | None = Field(None, gt=0, description="normal rows that train; of a series, the first time steps")
    valid: float | None = Field(None, gt=0, description="rows that stop the training and choose the threshold")
    folds: int | None = Field(
        None,
        ge=0,
        le=20,
        description="parts that rows are cross-fitted in, each judged by models of the others: unlabelled rows, and"
        " fewer than 2,000 normal ones; 0, and where train or valid is chosen: rows are held out instead",
    )
    test_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the test rows that choose the threshold too, where the data names train and test alone;"
        " 0: held-out training rows choose it, as in published comparisons",
    )


class ModelConfig(Section):
    """The network and its likelihood."""

    kind: Annotated[str | None, one_of("models")] = Field(None, description="None: by the kind of data")
    network: Literal["dense", "conv1d", "conv2d"] | None = Field(
        None, description="what flow and conditional are built around; None: by the axes of a sample"
    )
    latent: int | None = Field(
        None,
        ge=1,
        le=WIDEST,
        description="latent dimensions; hierarchical, kl_autoencoder, vq: channels of a latent map",
    )
    hidden: Widths | None = Field(None, description="units of each dense layer (dense), of the last (conv)")
    channels: Widths | None = Field(None, description="channels of each stride-2 stage (all but dense)")
    blocks: int | None = Field(
        None, ge=0, le=DEEPEST, description="residual blocks of each stage; hierarchical: and latent maps of each scale"
    )
    likelihood: Literal["gaussian", "bernoulli", "laplace"] | None = Field(None, description="p(x|z) of numbers")
    sigma: Literal["predicted", "element", "shared", "optimal", "fixed"] | None = Field(
        None,
        description="scale of p(x|z): decoded for each element of each sample, learned for each element, learned"
        " for all, set to its analytic optimum (Rybkin 2020), or fixed",
    )
    sigma_value: float | None = Field(None, gt=0, description="the scale where sigma is fixed, else where it starts")
    sigma_min: float | None = Field(None, gt=0, description="floor of every scale that is not fixed, in scaled units")
    members: int | None = Field(None, ge=1, le=DEEPEST, description="independent VAEs trained side by side (dense)")
    pretrained: str | None = Field(
        None, description="folder of a diffusers AutoencoderKL that training starts from (kl_autoencoder)"
    )
    backbone: str | None = Field(
        None,
        description="frozen network whose feature maps are modelled: efficientnet_lite0, a name of torchvision, or"
        " timm/NAME (features)",
    )
    layers: tuple[str, ...] = Field((), description="layers of the backbone that are read; empty: those known for it")
    weights: str | None = Field(
        None,
        description="file of the backbone's weights; None: the package that brings them, or the cache of its library",
    )
    carry_backbone: bool = Field(
        True, description="a detector's folder holds the backbone's weights; false: refers to them by their hash"
    )
    codes: int | None = Field(None, ge=2, le=WIDEST, description="vectors of the codebook (vq)")
    code_prior: Literal["unigram", "causal"] | None = Field(
        None, description="p(codes): each position on its own, or given those before it (vq)"
    )
    commitment: float | None = Field(None, ge=0, description="weight of the encoder's distance to its codes (vq)")
    flow_steps: int | None = Field(None, ge=1, le=DEEPEST, description="autoregressive steps of the posterior (flow)")


class ObjectiveConfig(Section):
    """The negative ELBO in nats: recon + beta * KL, with free bits."""

    beta: float = Field(1.0, ge=0, description="weight of the KL at the end of its schedule")
    schedule: Literal["constant", "linear", "cosine", "sigmoid", "cyclical"] = Field(
        "linear", description="how beta rises to its value (cyclical: Fu 2019)"
    )
    warmup: float = Field(0.2, ge=0, le=1, description="share of the epochs in which beta rises")
    capacity: float | None = Field(
        None,
        ge=0,
        description="nats that the KL is held to, rising from 0 as beta else would: recon + beta * |KL - capacity|"
        " (Burgess 2018); None: the KL is charged as it is",
    )
    cycles: int = Field(4, ge=1, le=1 << 40, description="cycles of the cyclical schedule")
    adversarial: float = Field(
        0.0, ge=0, description="weight, in nats a pixel, of a discriminator that judges patches of reconstructions"
    )
    free_bits: float = Field(0.0, ge=0, description="nats of batch-mean KL a latent dimension has free (Kingma 2016)")
    free_bits_total: float = Field(2.0, ge=0, description="nats of batch-mean KL all dimensions have free together")


class TrainingConfig(Section):
    """The one training loop."""

    steps: int | None = Field(None, ge=1, le=1 << 40, description="optimiser steps, however many rows there are")
    epochs: int | None = Field(None, ge=1, le=1 << 40, description="passes over the training rows, instead of steps")
    batch_size: int | None = Field(
        None, ge=2, le=1 << 31, description="samples of one optimiser step; at most half of the rows"
    )
    lr: float | None = Field(None, gt=0, description="AdamW's learning rate, raised over 5 % and decayed on a cosine")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decoupled weight decay")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient of the loss, in nats an element")
    noise: float | None = Field(
        None, ge=0, description="Gaussian noise on the input, as a share of the standard deviation of the data"
    )
    jitter: float | None = Field(
        None, ge=0, description="strength of random affine changes to pictures; 1: 10 degrees, 10 % scale, 5 % shift"
    )
    binarise: bool = Field(
        False, description="pixels are drawn from Bernoulli(grey), anew each time; for model.likelihood=bernoulli"
    )
    patience: int = Field(
        20, ge=1, le=1 << 40, description="epochs without a better held-out ELBO before training stops"
    )
    bf16: bool | None = Field(None, description="bfloat16 autocast where the hardware computes in it")
    cuda_graph: bool = Field(True, description="record a step as a CUDA graph, which is launched at once")


class ScoringConfig(Section):
    """What the score is the sum of. recon and kl always; each further part has a column of its own."""

    combine: Literal["surprise", "sum"] | None = Field(
        None,
        description="what is added up: of each part its surprise, -log of the share of held-out normals with as many"
        " nats, which is one unit for all; or raw nats",
    )
    recon: Annotated[str | None, one_of("recon")] = Field(
        None,
        description="reconstruction nats of the training likelihood, or of one calibrated after training: of blurred"
        " residuals (pictures), of each sensor and its level (series), or with all covariances (features)",
    )
    prior: Annotated[str | None, one_of("kl")] = Field(
        None,
        description="what the KL is taken to: the model's own prior, N(0, I) or of the codes, or a Gaussian mixture"
        " fitted to the training posteriors",
    )
    components: int = Field(
        10, ge=1, le=WIDEST, description="components of the mixture, if there are posteriors enough"
    )
    neighbours: int | None = Field(
        None,
        ge=0,
        le=1 << 31,
        description="training rows, pictures or positions of them (features) that distances are measured to; 0: no"
        " part that measures any",
    )
    parts: tuple[str, ...] | None = Field(None, description="further parts of the score, by name")
    weights: Literal["auto", "none"] | None = Field(
        None,
        description="what each part counts: by the anomalies of validation and of `feedback`, where that ranks them"
        " better; none: 1",
    )
    local: bool | None = Field(
        None,
        description="nats stay with the steps that they are of: a level falls when its sensor is back, and a block that"
        " changes too much gives its nats to the steps that do (series)",
    )
    border: bool = Field(
        True,
        description="positions near the border count less where normal pictures score more (features)",
    )


class ThresholdConfig(Section):
    """How the threshold is chosen."""

    policy: str = Field(
        "auto",
        description="by the ROC curve youden, f1, recall=RATE, cost=RATIO (a miss costs RATIO false alarms); of the"
        " normals alone fpr=RATE, tail=RATE, events=RATE (events a day of a series); auto: youden where validation has"
        " anomalies, else `unlabelled`",
    )
    unlabelled: str | None = Field(
        None,
        description="auto without anomalies: fpr=RATE by conformal prediction, or of a series tail=RATE, extrapolated,"
        " or events=RATE a day",
    )

    pixels: str = Field(
        "auto",
        description="of maps, which pixels are anomalous: youden, f1, recall=RATE, cost=RATIO by the pixels' ROC curve"
        " (needs masks); fpr=RATE: share of normal pictures with such a pixel; auto: f1 with masks, else `unlabelled`",
    )

    @field_validator("policy", "unlabelled", "pixels")
    @classmethod
    def _known(cls, policy: str | None) -> str | None:
        if policy not in ("auto", None):
            Policy.parse(policy)
        return policy

    @field_validator("pixels")
    @classmethod
    def _of_pictures(cls, policy: str) -> str:
        if policy.startswith("events"):
            raise ValueError("events are of the steps of a series; fpr=RATE would work")
        return policy

    def asks_for_events(self) -> bool:
        """Whether a policy is of events a day."""
        return any(policy is not None and policy.startswith("events") for policy in (self.policy, self.unlabelled))


class EventsConfig(Section):
    """How the alarms of a series are joined into events."""

    gap: int = Field(8, ge=0, description="steps below the threshold over which an event goes on")
    shortest: int = Field(1, ge=1, description="alarms of an event, at least; fewer are none")


class TrackingConfig(Section):
    """Where runs are recorded. The environment's MLFLOW_TRACKING_URI wins where it is set."""

    enabled: bool = Field(True, description="log the run to MLflow")
    folder: str = Field("mlruns", description="folder of the local sqlite store, of artifacts and of checkpoints")
    experiment: str | None = Field(None, description="MLflow experiment; None: the name of the data")
    name: str | None = Field(None, description="name of the run; None: model and data")
