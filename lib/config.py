"""The keys of a training: one YAML file, typed and checked; `lib.config_file` reads it.

The names are TracKit's, upper case, under one top-level model name (`OCEAN`), so a TracKit training YAML loads as it
is; ours are added in the same manner. `cfg.TRAIN.BATCH` in code is `OCEAN: TRAIN: BATCH:` in YAML: grep finds both.
The defaults are written here and nowhere else; `experiments/train/Ocean.yaml` shows them with a comment each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lib.errors import did_you_mean

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScheduleKwargs(_Section):
    """Numbers of a learning-rate schedule; which of them count depends on its TYPE (see `lib.training.stage`)."""

    start_lr: Positive = 0.005
    end_lr: Positive | None = 0.00001
    step: PositiveInt = 1  # 'step': epochs between two changes
    steps: list[PositiveInt] = [10, 20, 30, 40]  # 'multi-step': epochs of the changes
    mult: Positive | None = None  # 'step', 'multi-step': the factor of a change
    pct_start: Probability = 0.25  # 'onecycle': share of the steps spent rising


class WarmupConfig(_Section):
    IFNOT: bool = True
    TYPE: Literal["step", "log", "linear", "cos", "multi-step"] = "step"
    EPOCH: Count = 5
    KWARGS: ScheduleKwargs = ScheduleKwargs(start_lr=0.001, end_lr=0.005)


class LearningRateConfig(_Section):
    TYPE: Literal["log", "step", "multi-step", "linear", "cos", "onecycle"] = "log"
    KWARGS: ScheduleKwargs = ScheduleKwargs()


class PixelsConfig(_Section):
    """What the net of TRAIN.PRETRAIN was trained on: (pixel - MEAN) / STD of pixels 0..255 in an ORDER of channels."""

    ORDER: Literal["RGB", "BGR"] = "RGB"
    MEAN: tuple[float, float, float]
    STD: tuple[Positive, Positive, Positive]


class TrainConfig(_Section):
    ISTRUE: bool = True
    MODEL: str = "Ocean"
    ALIGN: bool = False
    START_EPOCH: Count = 0
    END_EPOCH: Epochs = 20
    TEMPLATE_SIZE: Literal[127] = 127
    SEARCH_SIZE: Literal[255, 271, 287] = 255
    STRIDE: Literal[8] = 8
    BATCH: Annotated[int, Field(ge=1, le=65536)] = 32
    RESUME: bool | str = False
    PRETRAIN: bool | str = False
    LR_POLICY: str = "log"
    WARMUP: WarmupConfig = WarmupConfig()
    LR: LearningRateConfig = LearningRateConfig()
    LAYERS_LR: Positive = 0.1
    BASE_LR: Positive = 0.005
    UNFIX_EPOCH: Count = 10
    WARM_POLICY: str = "step"
    UNFIX_POLICY: str = "log"
    MOMENTUM: Probability = 0.9
    WEIGHT_DECAY: NonNegative = 0.0001
    TRAINABLE_LAYER: list[str] = ["layer1", "layer2", "layer3"]
    WHICH_USE: list[str] = ["YTB", "VID", "COCO", "DET", "GOT10K"]
    # Ours
    SEED: Count = 0
    BACKBONE: str = "ResNet50"
    BACKBONE_OPTIONS: dict[str, Any] = {}
    RANDOM_TRUNK: bool = False
    PRETRAIN_INPUT: PixelsConfig | None = None
    HEAD: str = "box_tower"
    HEAD_OPTIONS: dict[str, Any] = {}
    CHANNELS: PositiveInt = 256
    TOWERNUM: PositiveInt = 4
    BOX_BIAS: Annotated[float, Field(ge=-5, le=6)] = 1.0
    OPTIMIZER: str = "SGD"
    FROZEN_BN_EVAL: bool = True
    AMP: Literal["none", "auto", "bf16", "fp16"] = "none"
    CHANNELS_LAST: bool = False
    COMPILE: bool = False
    CLIP_GRAD: NonNegative = 0.0
    ACCUMULATE: Annotated[int, Field(ge=1, le=65536)] = 1
    EMA: Annotated[float, Field(ge=0, lt=1)] = 0.0
    SYNC_BN: bool = False
    KEEP_LAST: Count = 0
    SAVE_EVERY: Count = 0
    ON_SAVE_ERROR: Literal["stop", "continue"] = "stop"
    RESUME_STRICT: bool = True
    NONFINITE: Literal["stop", "skip"] = "stop"
    DETERMINISTIC: bool = False
    DETECT_ANOMALY: bool = False
    DATA_TIMEOUT: Count = 300
    ONLINE: Literal[False, "raw", "imagenet"] = False
    PRESENCE: bool = False

    @field_validator("OPTIMIZER")
    @classmethod
    def _known_optimizer(cls, name: str) -> str:
        if name not in ("SGD", "AdamW") and not name.startswith("timm:"):
            raise ValueError("expected SGD, AdamW, or timm:NAME, such as timm:lamb")
        return name

    @field_validator("WHICH_USE", "TRAINABLE_LAYER")
    @classmethod
    def _no_doubles(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("a name stands twice")
        return names

    @field_validator("RESUME", "PRETRAIN", mode="before")
    @classmethod
    def _false_or_text(cls, value: Any) -> Any:
        if value is True or not isinstance(value, bool | str):
            raise ValueError("expected False or a path (RESUME also takes 'auto')")
        return value

    @model_validator(mode="after")
    def _epochs(self) -> TrainConfig:
        if self.START_EPOCH >= self.END_EPOCH:
            raise ValueError(f"START_EPOCH {self.START_EPOCH} is not below END_EPOCH {self.END_EPOCH}")
        if self.ONLINE and self.PRESENCE:
            raise ValueError("ONLINE and PRESENCE train one branch each beside a resting tracker; set one of them")
        return self


class TestConfig(_Section):
    ISTRUE: bool = False
    THREADS: PositiveInt = 16
    DATA: str = "VOT2019"
    START_EPOCH: Count = 10
    END_EPOCH: Count = 50
    RGBTSPLIT: str | None = None


class TuneConfig(_Section):
    ISTRUE: bool = False
    DATA: str = "VOT2019"
    METHOD: Literal["TPE"] = "TPE"
    RGBTSPLT: str | None = None  # spelt as TracKit spells it


class SourceConfig(_Section):
    """One source of training pairs: a folder of crops and its index, or a renderer."""

    PATH: str = ""
    ANNOTATION: str = ""
    RANGE: PositiveInt = 100
    USE: PositiveInt = 1
    WEIGHT: Positive = 1.0
    FORMAT: str = "crop511"  # a key of `lib.datasets.dataset.FORMATS`
    OPTIONS: dict[str, Any] = {}


# Pairs per epoch and frame range of the Ocean paper's training (OCEAN section 4).
_SOURCES = {
    name: SourceConfig(PATH=f"data/{name.lower()}/crop511", ANNOTATION=f"data/{name.lower()}/train.json", RANGE=frames,
                       USE=pairs)
    for name, frames, pairs in (("VID", 100, 110_000), ("YTB", 3, 210_000), ("COCO", 1, 60_000), ("DET", 100, 60_000),
                                ("GOT10K", 100, 160_000))
}


class DatasetConfig(_Section):
    SHIFT: NonNegative = 4.0
    SCALE: Annotated[float, Field(ge=0, lt=1)] = 0.05
    SHIFTs: NonNegative = 64.0
    SCALEs: Annotated[float, Field(ge=0, lt=1)] = 0.18
    COLOR: Probability = 1.0
    FLIP: Probability = 0.0
    BLUR: Probability = 0.0
    ROTATION: Probability = 0.0
    LABELSMOOTH: Literal[False] = False
    MIXUP: Literal[0] = 0
    GRAY: Probability = 0.0
    CUTOUT: Probability = 0.0
    # Ours
    CLS_TARGET: Literal["box", "reference"] = "box"
    MAX_UNREADABLE: Probability = 0.001
    PAIRS: Count = 0
    JITTER: Annotated[float, Field(ge=0, lt=1)] = 0.05
    PARTS: Probability = 0.0
    NEGATIVE: Probability = 0.0
    NEGATIVE_FROM: Literal["any", "source", "video"] = "any"
    SOURCES: dict[str, SourceConfig] = _SOURCES  # in YAML each source is a child of DATASET

    @model_validator(mode="before")
    @classmethod
    def _gather_sources(cls, data: Any) -> Any:
        """Move each child that is itself a mapping into SOURCES; a misspelt scalar key stays and is refused."""
        if not isinstance(data, Mapping):
            return data
        children = {k: v for k, v in data.items() if k not in cls.model_fields and isinstance(v, Mapping)}
        rest = {k: v for k, v in data.items() if k not in children}
        return {**rest, "SOURCES": {**_SOURCES, **rest.get("SOURCES", {}), **children}}


class Config(_Section):
    """A whole training configuration; `NAME` is the YAML's one top-level key."""

    NAME: str = "OCEAN"
    GPUS: str = "0"
    PRINT_FREQ: PositiveInt = 10
    WORKERS: Count = 32
    OUTPUT_DIR: str = "logs"
    LOGGER: Literal["tensorboard", "wandb", "mlflow"] = "tensorboard"
    CHECKPOINT_DIR: str = "snapshot"
    TRAIN: TrainConfig = TrainConfig()
    TEST: TestConfig = TestConfig()
    TUNE: TuneConfig = TuneConfig()
    DATASET: DatasetConfig = DatasetConfig()

    @field_validator("GPUS", mode="before")
    @classmethod
    def _device_numbers(cls, value: Any) -> str:
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) != len(parts):
            raise ValueError("expected different device numbers, comma separated, such as '0,1,2'")
        return ",".join(parts)

    @model_validator(mode="after")
    def _sources_exist(self) -> Config:
        for name in self.TRAIN.WHICH_USE:
            if name not in self.DATASET.SOURCES:
                near = did_you_mean(name, self.DATASET.SOURCES)
                raise ValueError(f"TRAIN.WHICH_USE names '{name}', which DATASET does not have{near}")
        return self

    def gpu_numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.GPUS.split(","))

    def model_options(self) -> dict[str, Any]:
        """Return the keywords of `lib.models.models.build_model` for the model that TRAIN describes."""
        train = self.TRAIN
        return {"arch": train.MODEL, "backbone": train.BACKBONE, "backbone_options": train.BACKBONE_OPTIONS,
                "head": train.HEAD, "head_options": train.HEAD_OPTIONS, "channels": train.CHANNELS,
                "towernum": train.TOWERNUM, "align": train.ALIGN, "box_bias": train.BOX_BIAS,
                **({"online": True, "online_pixels": train.ONLINE} if train.ONLINE else {}),
                **({"presence": True} if train.PRESENCE else {})}

    def summary(self) -> dict[str, int | float | str | bool]:
        """Return what sets one training apart from another, by the names of the keys, for a table of runs."""
        train = self.TRAIN
        return {"BACKBONE": train.BACKBONE, "BACKBONE_OPTIONS": str(train.BACKBONE_OPTIONS), "ALIGN": train.ALIGN,
                "CHANNELS": train.CHANNELS, "OPTIMIZER": train.OPTIMIZER, "BASE_LR": train.BASE_LR,
                "END_EPOCH": train.END_EPOCH, "SEED": train.SEED, "WHICH_USE": ", ".join(train.WHICH_USE)}

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as the YAML's plain nested dict, sources as children of DATASET."""
        data = self.model_dump(mode="json", exclude={"NAME"})
        dataset = data["DATASET"]
        dataset.update(dataset.pop("SOURCES"))
        return {self.NAME: data}


class ClassesConfig(_Section):
    """Labelled pictures, and how training changes them (timm's names and meanings)."""

    PATH: str = ""
    FORMAT: Literal["folder", "cifar10", "cifar100"] = "folder"
    SIZE: PositiveInt = 127
    AUGMENT: str = "rand-m7-mstd0.5-inc1"  # of timm, "" for none
    COLOR: NonNegative = 0.4  # jitter, where AUGMENT is ""
    ERASE: Probability = 0.0
    SCALE: Annotated[float, Field(gt=0, le=1)] = 0.35  # least share of the picture that a crop shows
    MIXUP: NonNegative = 0.0
    CUTMIX: NonNegative = 0.0
    LABELSMOOTH: Annotated[float, Field(ge=0, lt=1)] = 0.1


class PretrainConfig(Config):
    """The training of a classifier: CLASSES has the pictures; keys of pairs, head and tracking have no effect."""

    CLASSES: ClassesConfig = ClassesConfig()
