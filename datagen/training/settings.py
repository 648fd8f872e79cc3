"""What a training is told: YAML of its own or one that comes with datagen, and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, model_validator

from datagen.errors import DatagenError, RecipeError, nearest, of_settings
from datagen.step import Settings
from datagen.training.hard_negatives import HardNegativeSettings
from datagen.training.loader_settings import LoaderSettings
from datagen.training.losses import LossSettings
from datagen.training.noise_weights import NoiseSettings
from datagen.training.query_settings import CaptionSettings, MaskedSettings, Queries
from datagen.training.towers import TowerSettings

RECIPES = Path(__file__).parent / "recipes"

#: Settings that may change between a stop and the next start: what is learned hangs on none.
FREE = ("checkpoints", "checkpointing", "log_every", "logs", "device")
#: The same of those of the loader.
FREE_LOADER = ("workers", "ahead", "start", "pin", "copy_shards")

Metric = Literal["R@1", "R@5", "R@10", "R@50", "mAP"]


class ValidationSettings(Settings):
    """on: ``run:DIR#SPLIT``; by default the split ``val`` of the first run that has one; ``none``
    for no validation. every: steps between two validations (0: after every epoch). metric: what
    the best checkpoint is best by. gallery, batch_size: as of ``datagen eval``.
    """

    on: str = ""
    every: int = Field(0, ge=0)
    metric: Metric = "mAP"
    gallery: Literal["run", "split", "targets"] = "split"
    batch_size: int = Field(64, ge=1)


class CheckpointSettings(Settings):
    """every: steps between two checkpoints; keep: the last so many stay."""

    every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)


class NoisyTriplets(NoiseSettings):
    """Weights of triplets by what they lost in the epoch before; the first ``warmup`` epochs
    train on all alike.
    """

    warmup: int = Field(1, ge=1)


class MiningSettings(HardNegativeSettings):
    """Hard negatives that the model in training finds among the media of what it trains on.

    warmup: epochs before the first time, with random ones; every: epochs between two times. draw:
    how many of those found a sample has. candidates: the ``targets`` of all triplets, or ``all``
    their references too. How they are found is as of
    :class:`datagen.training.hard_negatives.HardNegativeSettings`.
    """

    warmup: int = Field(1, ge=0)
    every: int = Field(1, ge=1)
    draw: int = Field(1, ge=1)
    candidates: Literal["targets", "all"] = "all"

    @model_validator(mode="after")
    def _enough(self) -> MiningSettings:
        if self.draw > self.keep:
            raise ValueError("draw: no more than keep expected")
        return self


def _own(kind: type[Settings]) -> Any:
    """Settings of a part, by default its own defaults."""
    return Field(default_factory=lambda: kind())


class TrainSettings(Settings):
    """How a retriever is trained.

    about: what for, for the card. model: a reference, or settings of towers; a folder that a
    training wrote is trained on, with its own composer. composer: its ``op`` and settings. loss,
    loader: their settings. epochs, or steps where given: how long. learning_rate: its peak;
    towers_learning_rate: of the towers (None: the same); schedule: after ``warmup`` steps; weight_
    decay: of matrices alone; clip: the largest norm of all gradients (0: any). accumulate: batches
    of a step, each with negatives of its own; weights: shares of the runs, in their order (none:
    each is gone through once an epoch); chunk: queries and media that are encoded at once
    (0: all of a batch), with the gradients of the whole batch. checkpointing: keep no activations
    inside blocks. precision: ``auto`` is bf16 on GPUs that have it. ema: decay of the mean of
    weights that is validated and written (0: none). noise: weights of noisy triplets.
    mining: hard negatives that the model finds. queries: made in training, in place of those of
    the triplets. freeze_composer: train the towers alone. export: weights of the ``best``
    validation, or the ``last``.
    """

    about: str = ""
    seed: int = Field(0, ge=0)
    model: TowerSettings
    composer: dict[str, Any] = Field(default_factory=lambda: {"op": "combiner"})
    loss: LossSettings = _own(LossSettings)
    loader: LoaderSettings = _own(LoaderSettings)
    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    towers_learning_rate: float | None = Field(None, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.98,
    )
    clip: float = Field(0.0, ge=0)
    accumulate: int = Field(1, ge=1)
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    chunk: int = Field(0, ge=0)
    checkpointing: bool = False
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema: float = Field(0.0, ge=0, lt=1)
    noise: NoisyTriplets | None = None
    mining: MiningSettings | None = None
    queries: Queries | None = None
    freeze_composer: bool = False
    validation: ValidationSettings = _own(ValidationSettings)
    checkpoints: CheckpointSettings = _own(CheckpointSettings)
    export: Literal["best", "last"] = "best"
    log_every: int = Field(1, ge=1)
    logs: tuple[Literal["tensorboard", "wandb"], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("model"), str):
            return {**data, "model": {"model": data["model"]}}
        return data

    @model_validator(mode="after")
    def _together(self) -> TrainSettings:
        if self.mining is not None and (self.queries is not None or not self.loader.media):
            raise ValueError("mining: needs the pictures and queries of triplets; drop queries")
        if self.queries is None and not self.loader.media:
            raise ValueError("loader.media: false needs queries of captions; set queries")
        loader, made = self.loader, self.queries
        if made is not None and loader.negatives:
            raise ValueError("loader.negatives: 0 expected, queries have none of the shards")
        shares = loader.image_only + loader.captions
        if isinstance(made, MaskedSettings):
            shares += loader.text_only
        if made is not None and not isinstance(made, CaptionSettings) and shares:
            raise ValueError(
                "loader.image_only, text_only, captions: 0 expected, queries are made otherwise"
                + ("" if isinstance(made, MaskedSettings) else "; set queries.images, captions")
            )
        return self

    def learned(self) -> dict[str, Any]:
        """All that what is learned hangs on, as plain values."""
        out = self.model_dump(mode="json", exclude=set(FREE))
        out["loader"] = {key: one for key, one in out["loader"].items() if key not in FREE_LOADER}
        return out


def names() -> list[str]:
    """Names of the training recipes that come with datagen."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read(recipe: str = "", overrides: Iterable[str] = ()) -> TrainSettings:
    """The settings of a recipe (a name, or the path of a YAML file) with ``key=value`` over them.

    Raises RecipeError with a line for each fault.
    """
    data = _recipe(recipe) if recipe else {}
    parts = [OmegaConf.create(data)]
    faults = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            faults.append(f"{override}: overrides look like loader.batch_size=64")
            continue
        try:
            parts.append(_placed(name.split("."), yaml.safe_load(text)))
        except yaml.YAMLError:
            faults.append(f"{override}: not a value")
    if faults:
        raise RecipeError(faults)
    return checked(_merged(parts, recipe), recipe or "training")


def checked(data: Mapping[str, Any], place: str = "training") -> TrainSettings:
    """Settings of plain values. Raises RecipeError with a line for each fault."""
    if "model" not in data:
        raise RecipeError(f"{place}: model is missing, for example model=bundled:tinyclip")
    try:
        return TrainSettings.model_validate(data)
    except ValidationError as error:
        raise RecipeError(of_settings(place, error, data, TrainSettings.model_fields)) from error


def _recipe(recipe: str) -> dict[str, Any]:
    path = Path(recipe).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{recipe}.yaml"
        if not path.is_file():
            raise RecipeError(f"no training recipe '{recipe}'; {nearest(recipe, names())}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not valid YAML") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a mapping of settings expected")
    if isinstance(data.get("model"), str):
        data["model"] = {"model": data["model"]}
    return data


def _placed(keys: list[str], value: Any) -> Any:
    """``value`` below ``keys``; a model may be named by its reference alone."""
    if keys == ["model"] and isinstance(value, str):
        keys = ["model", "model"]
    for key in reversed(keys):
        value = {key: value}
    return OmegaConf.create(value)


def _merged(parts: list[Any], recipe: str) -> dict[str, Any]:
    try:
        out = parts[0]
        for part in parts[1:]:
            # Another composer has other settings: nothing of the old one is kept.
            given = part.get("composer")
            if given is not None and "op" in given and "composer" in out:
                out = OmegaConf.masked_copy(out, [key for key in out if key != "composer"])
            out = OmegaConf.merge(out, part)
        plain = OmegaConf.to_container(out, resolve=True)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise RecipeError(f"{recipe or 'training'}: {str(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise DatagenError("training: a mapping of settings expected")
    return {str(key): value for key, value in plain.items()}
