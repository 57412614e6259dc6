"""The settings of a run: schema, defaults and documentation in one place.

A YAML file holds only the differences from these defaults; its file name is the name of the run.
"""

import operator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Marks a setting that came after runs had been made without it, its default being what they did.
LATER = {"later": True}


# What decoders give that do not give maps.
GIVES = {"MaskRCNN": "detections"}
# Settings that only networks that give maps have.
FOR_MAPS = ("model.min_side_px", "model.output_stride", "train.pool", "train.start", "train.cuda_graph")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def record(self) -> dict:
        """Return the settings as stages record them, LATER ones only where they differ from their defaults.

        So what an earlier version made stays up to date.
        """
        fields = type(self).model_fields.items()
        values = {
            name: getattr(self, name)
            for name, field in fields
            if field.json_schema_extra != LATER or getattr(self, name) != field.default
        }
        return {name: value.record() if isinstance(value, Section) else value for name, value in values.items()}


class DataConfig(Section):
    dataset: str = Field("dsb2018", description="name of the prepared data: runs/data/<dataset>")
    folds: str = Field("folds/dsb2018.csv", description="fold table: image_id, group, cluster, fold, weight")
    n_folds: int = Field(4, gt=1, description="folds dealt where the fold table does not exist yet")
    folds_seed: int = 2018
    split_folds: str | None = Field(
        None,
        description="a fold table, each of whose folds is split evenly to make this one where it does not exist yet",
    )
    only_folds: tuple[int, ...] = Field((), description="train and score these folds only, for quick trials; none: all")
    unseen: tuple[Literal["test", "stage2"], ...] = Field(
        ("test", "stage2"), description="images without masks to predict too, where they are there"
    )


class ModelConfig(Section):
    decoder: str = Field(
        "Unet", description="any decoder of segmentation-models-pytorch; KerasUnet, OriginalUnet; MaskRCNN"
    )
    encoder: str | None = Field(
        "tu-mobilenetv2_100", description="any encoder of smp; 'tu-<name>' is timm's <name>; null for a whole network"
    )
    weights: str | None = Field(
        "imagenet", description="initial encoder weights: a name of smp's or timm's hub, a local file, or null"
    )
    decoder_channels: tuple[int, ...] = Field((256, 128, 64, 32, 16), description="one width per decoder level")
    output_stride: Literal[1, 2, 4] = Field(
        1,
        description="2, 4: a Unet gives maps of a half, a quarter of the size, enlarged bilinearly: cheaper by the decoder's last levels, "
        "which decoder_channels then does without",
        json_schema_extra=LATER,
    )
    channels: tuple[str, ...] = Field(
        ("mask", "border", "center"), description="target channels, by name; none for MaskRCNN, which learns instances"
    )
    width: int = Field(256, gt=0, description="channels of MaskRCNN's pyramid and heads")
    box_batch: int = Field(128, gt=0, description="boxes per crop that train MaskRCNN's second stage")
    min_side_px: int = Field(
        0,
        ge=0,
        description="images with a shorter side are enlarged to it, at most twofold, before they are learned or predicted",
        json_schema_extra=LATER,
    )
    mean: tuple[float, float, float] | None = Field(None, description="input mean in 0..1; null: the encoder's own")
    std: tuple[float, float, float] | None = Field(None, description="input std in 0..1; null: the encoder's own")

    @property
    def gives(self) -> str:
        """What the network predicts: 'maps', or 'detections'."""
        return GIVES.get(self.decoder, "maps")


class TrainConfig(Section):
    start: str | None = Field(
        None,
        description="a run whose networks training goes on from, each from the one that never saw its held-out images; "
        "null: from model.weights",
        json_schema_extra=LATER,
    )
    steps: int = Field(1000, gt=0, description="optimiser steps per fold")
    seconds: float | None = Field(
        None, gt=0, description="end a fold's training, its schedule fitted, after this processor time: equal budgets"
    )
    batch_size: int = Field(16, gt=0)
    crop_px: int = Field(256, gt=0)
    pool: int = Field(
        0,
        ge=0,
        description="crops made once, by all cores, that the folds share and see turned anew; 0: each is made anew",
        json_schema_extra=LATER,
    )
    augment: str | dict[str, float] = Field("full", description="preset of augment.py, or group -> probability")
    leave_out: tuple[str, ...] = Field((), description="augmentation groups of the preset not used (for ablations)")
    sampling: Literal["balanced", "uniform"] = Field("balanced", description="balanced: by the folds' weight column")
    loss: dict[str, float] = Field({"bce": 0.5, "dice": 0.5}, min_length=1, description="name in losses.py -> weight")
    channel_weights: dict[str, float] = Field({"border": 1.0}, description="weight of a channel's loss; others 1")
    learning_rate: float = Field(2e-3, gt=0, description="peak; linear warm-up, then cosine to 1 % of it")
    encoder_rate: float = Field(0.5, description="the encoder's share of the learning rate")
    warmup: float = Field(0.05, description="share of the steps spent warming up")
    weight_decay: float = 1e-3
    clip_norm: float = Field(1.0, description="gradient norm limit")
    ema: float = Field(0.995, description="decay of the averaged weights, which are the ones saved")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16 where the hardware computes it, else fp16 on a GPU, else fp32"
    )
    cuda_graph: bool = Field(
        False,
        description="on a GPU, record a step once and replay it: faster where a network's kernels are small; not with fp16",
        json_schema_extra=LATER,
    )
    evaluate_every: int = Field(500, gt=0, description="steps between scores on the held-out fold")
    evaluate_images: int = Field(24, description="held-out images scored then, by the competition metric")
    checkpoint_every: int = Field(100, gt=0, description="steps between checkpoints to resume from")
    workers: int = Field(1, description="data loading processes")
    seed: int = 2018


class PredictConfig(Section):
    checkpoint: Literal["last", "best"] = Field(
        "last", description="best is chosen on the held-out fold itself, so its out-of-fold score flatters"
    )
    tta: Literal["none", "flips", "dihedral"] = Field("flips", description="1, 4 or 8 views")
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="also predict at these sizes and average")
    tile_px: int = Field(1280, description="larger images are predicted in tiles of this side")
    overlap_px: int = Field(128, description="blended overlap of tiles")


class PlainConfig(Section):
    """The decodings that candidate scoring has to beat; thresholds are chosen on the other folds."""

    mask_thresholds: tuple[float, ...] = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
    seed_levels: tuple[float, ...] = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
    scores: tuple[float, ...] = Field((0.3, 0.4, 0.5, 0.6, 0.7, 0.8), description="of MaskRCNN's detections")


class ClassicalConfig(Section):
    recipe: str = Field("otsu", description="a recipe of classical.py, for selection.method classical")
    settings: dict[str, float] = Field({}, description="the recipe's keyword arguments that differ from its own")


class WatershedConfig(Section):
    mask_thresholds: tuple[float, ...] = Field(
        (0.25, 0.35, 0.45, 0.55, 0.65, 0.75), description="each tree node is cut at each of these"
    )
    floor: float = Field(0.2, description="mask value below which nothing is flooded")
    center_weight: float = Field(0.5, description="energy = weight·center + (1−weight)·mask·(1−border)")
    smooth_px: float = Field(1.0, description="sigma of the blur that keeps noise from making maxima")
    depth: float = Field(0.04, description="smallest rise of energy that makes a maximum a seed")
    max_leaves: int = Field(64, description="a union of more seeds than this is no candidate")
    min_area_px: int = Field(12, description="smaller candidates are dropped")


class ScorerConfig(Section):
    leave_out: tuple[str, ...] = Field((), description="feature groups not used (for ablations)")
    rounds: int = Field(150, description="boosting rounds")
    leaves: int = 31
    learning_rate: float = 0.08
    min_leaf_rows: int = 100
    share: float = Field(0.5, description="share of the rows and of the features that each tree sees")
    seeds: int = Field(2, description="boosters averaged")
    seed: int = 2018


class LabelsConfig(Section):
    folder: str = Field(
        "", description="label images of another tool, one TIFF or PNG per image id, for selection.method labels"
    )


class SelectionConfig(Section):
    method: str = Field(
        "scored",
        description="components, watershed and (of MaskRCNN) detections: plain decodings with thresholds tuned out of "
        "fold; classical and labels: no network at all (decoding/methods.py: METHODS)",
    )
    search: Literal["exact", "greedy"] = Field("exact", description="how the best set of candidates is found")
    keep_grid: tuple[float, ...] = Field(
        (-0.5, -0.4, -0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2),
        description="keep thresholds tried out of fold",
    )


class Config(Section):
    """Hold everything that decides what a run contains."""

    hypothesis: str = Field("", description="one line: what this run is to show")
    system: Literal["", "classical", "vanilla_unet", "mask_rcnn", "deep_watershed", "full"] = Field(
        "", description="the system of the field (systems.py) that this run stands for"
    )
    members: dict[str, float] = Field({}, description="runs whose maps are averaged -> weight; none: the run trains")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    predict: PredictConfig = PredictConfig()
    plain: PlainConfig = PlainConfig()
    classical: ClassicalConfig = ClassicalConfig()
    watershed: WatershedConfig = WatershedConfig()
    scorer: ScorerConfig = ScorerConfig()
    selection: SelectionConfig = SelectionConfig()
    labels: LabelsConfig = Field(LabelsConfig(), json_schema_extra=LATER)

    def record_training(self) -> dict:
        """Return the settings that decide the trained networks, as Section.record does."""
        return {"model": self.model.record(), "train": self.train.record()}

    @model_validator(mode="after")
    def check_kind(self) -> "Config":
        """Refuse what only networks that give maps have, of one that gives something else."""
        changed = [name for name in FOR_MAPS if operator.attrgetter(name)(self) != operator.attrgetter(name)(Config())]
        if self.model.gives != "maps" and changed:
            raise ValueError(
                f"{', '.join(changed)}: for networks that give maps, not for {self.model.decoder}, "
                f"which gives {self.model.gives}"
            )
        if self.train.cuda_graph and self.train.precision == "16-mixed":
            raise ValueError("train.cuda_graph is not for fp16, whose steps wait for the GPU on the way")
        return self
