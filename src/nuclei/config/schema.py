"""The settings of a run: schema, defaults and documentation in one place.

A YAML file holds only the differences from these defaults; its file name is the name of the run.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

# Marks a setting that came after runs had been made without it, its default being what they did.
LATER: JsonDict = {"later": True}
# Of no setting is more of anything meant: a larger number is a slip, which libraries answer with errors of their own.
LARGEST = 2**31 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_GROWTH = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,3})?(px|%)")
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_T = TypeVar("_T")
# Folders beside those of runs.
RESERVED = ("data", "comparisons")
EXTERNAL = "external"  # the folder of external sets, beside those of data sets


def check_name(name: str) -> str:
    """Return a name that becomes part of paths; raise ValueError if a path made of it could leave its folder."""
    if not _NAME.fullmatch(name):
        rule = "1 to 100 letters (A to Z), digits, _, - and ., the first neither - nor ."
        raise ValueError(f"{name!r} cannot be a name; valid: {rule}")
    return name


def check_run_name(name: str) -> str:
    """Return the name of a run; raise ValueError as `check_name` does, and for what lies beside the runs."""
    if check_name(name).casefold() in RESERVED:
        raise ValueError(f"{name!r} cannot name a run: that folder is for other things; valid: any other name")
    return name


def check_data_name(name: str) -> str:
    """Return the name of a data set; raise ValueError as `check_name` does, and for what lies beside the data sets."""
    if check_name(name).casefold() == EXTERNAL:
        raise ValueError(f"{name!r} cannot name a data set: external sets lie in that folder; valid: any other name")
    return name


def check_distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    """Return values of which none is given twice; raise ValueError naming the first that is."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{value} is given twice")
    return values


def check_growth(text: str) -> str:
    """Return by how much outlines move, as '1.5px' or '15%'; raise ValueError if it is neither."""
    if not _GROWTH.fullmatch(text):
        raise ValueError(f"{text!r} is no growth: pixels as '1.5px', or a share of the radius as '15%'; '-' shrinks")
    return text


def check_path(path: str) -> str:
    """Return the path of a file; raise ValueError if no file can have it."""
    if not path.strip() or not path.isprintable() or path.endswith("/"):
        raise ValueError(f"{path!r} cannot be the path of a file")
    return path


def check_text(text: str) -> str:
    """Return a text for people; raise ValueError if no page can hold it: for control characters, halves of others."""
    if found := _NO_TEXT.search(text):
        raise ValueError(f"{found[0]!a} is no character of a text")
    return text


def _refuse_switches(value: Any, levels: int = 3) -> None:
    """Raise ValueError if there is a yes or no among numbers and texts, which pydantic takes for 1 and 0.

    levels: how deep to look; no setting is nested deeper, but a YAML file can hold a list of itself.
    """
    if isinstance(value, bool):
        raise ValueError(f"must be a number or a text, not {'yes' if value else 'no'}")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for one in inner if levels else ():
        _refuse_switches(one, levels - 1)


def _refuse_giants(value: Any) -> None:
    """Raise ValueError if there is a number beyond LARGEST."""
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise ValueError(f"{value:.3g} is out of range: at most {LARGEST:,}")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        _refuse_giants(inner)


Name = Annotated[str, AfterValidator(check_name)]
RunName = Annotated[str, AfterValidator(check_run_name)]
Text = Annotated[str, AfterValidator(check_text)]
FilePath = Annotated[str, AfterValidator(check_path)]
Distinct = AfterValidator(check_distinct)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[tuple[Share, ...], Field(min_length=1), Distinct]
Colour = tuple[Share, Share, Share]


# What decoders give that do not give maps.
GIVES = {"MaskRCNN": "detections"}
# Settings that only networks that give maps have.
FOR_MAPS = (
    ("model", "min_side_px"),
    ("model", "output_stride"),
    ("train", "pool"),
    ("train", "start"),
    ("train", "scale"),
    ("train", "diameter_px"),
    ("train", "teacher"),
    ("train", "cuda_graph"),
    ("predict", "diameter_px"),
)


class Section(BaseModel):
    """Settings that belong together: unknown keys, infinite numbers and changes after loading are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def check_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a yes or no where a setting is no switch."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if annotation is not bool and not (isinstance(annotation, type) and issubclass(annotation, Section)):
            _refuse_switches(value)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def check_sizes(cls, value: Any) -> Any:
        """Refuse numbers that nobody means."""
        _refuse_giants(value)
        return value

    def record(self) -> dict[str, Any]:
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


def is_changed(section: Section, key: str) -> bool:
    """Return whether a setting has another value than its default."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)


class DataConfig(Section):
    """Which images are learned and predicted, and how they are dealt into folds."""

    dataset: Annotated[str, AfterValidator(check_data_name)] = Field(
        "dsb2018", description="name of the prepared data: runs/data/<dataset>"
    )
    folds: FilePath = Field("folds/dsb2018.csv", description="fold table: image_id, group, cluster, fold, weight")
    n_folds: int = Field(4, gt=1, description="folds dealt where the fold table does not exist yet")
    folds_seed: int = Field(2018, ge=0, description="seed of the order in which groups of equal size are dealt")
    folds_by: Literal["group", "kind"] = Field(
        "group",
        description="what a fold table that does not exist yet keeps together: mosaic groups, image types being spread "
        "evenly; or whole kinds of acquisition, so that networks are scored on kinds that they have never seen",
        json_schema_extra=LATER,
    )
    n_kinds: int = Field(12, gt=1, description="kinds that folds_by: kind tells apart", json_schema_extra=LATER)
    split_folds: FilePath | None = Field(
        None,
        description="a fold table, each of whose folds is split evenly to make this one where it does not exist yet",
    )
    only_folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Distinct] = Field(
        (), description="train and score these folds only, for quick trials; none: all"
    )
    unseen: Annotated[tuple[Literal["test", "stage2"], ...], Distinct] = Field(
        ("test", "stage2"), description="images without masks to predict too, where the data set has them"
    )
    external: dict[Name, NotNegative] = Field(
        {},
        description="external data sets, external/<set> in --data, that all networks learn from and none is scored on "
        "-> weight of each of their images in the draw, beside that in the fold table; 0 leaves a set out",
        json_schema_extra=LATER,
    )
    external_area_px: float = Field(
        1500,
        gt=0,
        description="an external image whose nuclei have a larger median area is halved, as often as needed: what was "
        "taken at 63x comes to the scale of the competition's images",
        json_schema_extra=LATER,
    )

    def external_sets(self) -> dict[str, float]:
        """Return the external data sets that are learned from, with their weights."""
        return {name: weight for name, weight in self.external.items() if weight > 0}

    def without_external(self) -> Self:
        """Return the settings that decide what is scored: external images are learned from alone."""
        return self.model_copy(update={"external": {}, "external_area_px": 1500.0})

    def record_external(self) -> dict[str, Any]:
        """Return the settings that decide what is learned of external data; none without such data."""
        sets = self.external_sets()
        return {"external": sets, "external_area_px": self.external_area_px} if sets else {}


class ModelConfig(Section):
    """The network: what it is made of, what it starts from, and what it gives."""

    decoder: str = Field(
        "Unet", description="any decoder of segmentation-models-pytorch; KerasUnet, OriginalUnet; MaskRCNN"
    )
    encoder: str | None = Field(
        "tu-mobilenetv2_100", description="any encoder of smp; 'tu-<name>' is timm's <name>; null for a whole network"
    )
    weights: str | None = Field(
        "imagenet", description="initial encoder weights: a name of smp's or timm's hub, a local file, or null"
    )
    decoder_channels: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (256, 128, 64, 32, 16), description="one width per decoder level"
    )
    output_stride: Literal[1, 2, 4] = Field(
        1,
        description="2, 4: a Unet gives maps of a half, a quarter of the size, enlarged bilinearly: cheaper by the "
        "decoder's last levels, which decoder_channels then leaves out",
        json_schema_extra=LATER,
    )
    channels: Annotated[tuple[str, ...], Distinct] = Field(
        ("mask", "border", "center"), description="target channels, by name; none for MaskRCNN, which learns instances"
    )
    width: int = Field(256, gt=0, description="channels of MaskRCNN's pyramid and heads")
    box_batch: int = Field(128, gt=0, description="boxes per crop that train MaskRCNN's second stage")
    min_side_px: int = Field(
        0,
        ge=0,
        description="images with a shorter side are enlarged to it, at most twofold, for training and prediction",
        json_schema_extra=LATER,
    )
    mean: Colour | None = Field(None, description="input mean in 0..1; null: the encoder's own")
    std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="input std in 0..1; null: the encoder's own"
    )

    @property
    def gives(self) -> str:
        """What the network predicts: 'maps', or 'detections'."""
        return GIVES.get(self.decoder, "maps")


class TrainConfig(Section):
    """How a network is trained: what it sees, what it is penalised for, and at what rate it learns."""

    start: RunName | None = Field(
        None,
        description="a run whose networks training starts from, each from the one that never saw its held-out images; "
        "null: from model.weights",
        json_schema_extra=LATER,
    )
    steps: int = Field(1000, gt=0, description="optimiser steps per fold")
    seconds: float | None = Field(
        None, gt=0, description="end a fold's training, its schedule fitted, after this processor time: equal budgets"
    )
    batch_size: int = Field(16, gt=0, description="crops per step")
    crop_px: int = Field(256, gt=0, le=8192, description="side of the square crops")
    scale: float = Field(
        1.0,
        gt=0,
        description="size of the images that crops are cut from, relative to what model.min_side_px makes of them: "
        "near predict.scales, a network learns for the size that it is applied at",
        json_schema_extra=LATER,
    )
    diameter_px: float | None = Field(
        None,
        ge=4,
        le=1000,
        description="before that, images with masks are brought to the size at which their nuclei have this median "
        "diameter: all a network learns is then for nuclei of one size, to which predict.diameter_px brings those of "
        "new images. null: as they are",
        json_schema_extra=LATER,
    )
    teacher: Name | None = Field(
        None,
        description="a run, an ensemble or not, whose maps of each crop are learned too (distillation); a fold learns "
        "from the teacher's networks that never saw its held-out images; null: from the true targets alone",
        json_schema_extra=LATER,
    )
    teacher_share: float = Field(
        0.5, gt=0, le=1, description="the teacher's share of the targets", json_schema_extra=LATER
    )
    unlabelled: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the crops that are cut from the images without masks of data.unseen, whose targets are "
        "the teacher's alone",
        json_schema_extra=LATER,
    )
    pool: int = Field(
        0,
        ge=0,
        description="crops made once, by all cores, that the folds share, turned differently each time they are seen; "
        "0: each is made anew",
        json_schema_extra=LATER,
    )
    augment: str | dict[str, Share] = Field("full", description="preset of augment.py, or group -> probability")
    leave_out: Annotated[tuple[str, ...], Distinct] = Field(
        (), description="augmentation groups of the preset not used (for ablations)"
    )
    sampling: Literal["balanced", "uniform"] = Field("balanced", description="balanced: by the folds' weight column")
    loss: dict[str, Positive] = Field(
        {"bce": 0.5, "dice": 0.5}, min_length=1, description="name in losses.py -> weight"
    )
    channel_weights: dict[str, NotNegative] = Field({"border": 1.0}, description="weight of a channel's loss; others 1")
    learning_rate: float = Field(2e-3, gt=0, description="peak; linear warm-up, then cosine to 1 % of it")
    encoder_rate: float = Field(0.5, ge=0, description="the encoder's share of the learning rate")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps spent warming up")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW's")
    clip_norm: float = Field(1.0, gt=0, description="gradient norm limit")
    ema: float = Field(0.995, ge=0, le=1, description="decay of the averaged weights, which are the ones saved")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16 where the hardware computes it, else fp16 on a GPU, else fp32"
    )
    cuda_graph: bool = Field(
        False,
        description="on a GPU, record a step once and replay it: faster where a network's kernels are small; "
        "not with fp16",
        json_schema_extra=LATER,
    )
    evaluate_every: int = Field(500, gt=0, description="steps between scores on the held-out fold")
    evaluate_images: int = Field(24, gt=0, description="held-out images scored then, by the competition metric")
    checkpoint_every: int = Field(100, gt=0, description="steps between checkpoints to resume from")
    workers: int = Field(1, ge=0, le=1000, description="data loading processes; 0: the training process loads its own")
    seed: int = Field(2018, ge=0, description="seed of the new weights, the crops and their augmentation")


class PredictConfig(Section):
    """How a trained network is applied to whole images."""

    checkpoint: Literal["last", "best"] = Field(
        "last", description="best is chosen on the held-out fold itself, so its out-of-fold score flatters"
    )
    tta: Literal["none", "turn", "flips", "dihedral"] = Field(
        "flips", description="1, 2 (as it is and turned by 180°), 4 or 8 views"
    )
    scales: Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Distinct] = Field(
        (1.0,), min_length=1, description="predict at each of these sizes and average"
    )
    diameter_px: float | None = Field(
        None,
        ge=4,
        le=1000,
        description="where the nuclei of an image, as a first look at half of its size finds them, are far from this "
        "median diameter at the size that model.min_side_px asks for, networks are given it at the size at which they "
        "have it, a tile of a large image by itself; predict.scales are relative to that. null: nothing is measured",
        json_schema_extra=LATER,
    )
    new_images: Literal["folds", "first", "whole"] = Field(
        "folds",
        description="what is applied to images that no fold holds: the networks of all folds, averaged; or, as many "
        "times faster, that of the first fold alone, or one more that learns from all images, whose score is stood for "
        "by those of the folds",
        json_schema_extra=LATER,
    )
    tile_px: int = Field(1280, ge=32, description="larger images are predicted in tiles of this side")
    overlap_px: int = Field(128, ge=0, description="blended overlap of tiles, less than tile_px")
    batch_images: int | None = Field(
        None,
        ge=1,
        description="images of one size, or tiles, that a GPU is given together; unset: as many as have the pixels of "
        "one tile. A CPU, which is faster so, gets one",
        json_schema_extra=LATER,
    )

    @model_validator(mode="after")
    def check_overlap(self) -> Self:
        """Refuse tiles that would not advance."""
        if self.overlap_px >= self.tile_px:
            raise ValueError(f"overlap_px {self.overlap_px} must be less than tile_px {self.tile_px}")
        return self


class PlainConfig(Section):
    """The decodings that candidate scoring has to beat; thresholds are chosen on the other folds."""

    mask_thresholds: Shares = Field(
        (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6), description="of the mask, for components and watershed"
    )
    seed_levels: Shares = Field(
        (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8), description="of the energy, above which the watershed's seeds lie"
    )
    scores: Shares = Field((0.3, 0.4, 0.5, 0.6, 0.7, 0.8), description="of MaskRCNN's detections")


class ClassicalConfig(Section):
    """The decoding that uses no network."""

    recipe: str = Field("otsu", description="a recipe of classical.py, for selection.method classical")
    settings: dict[str, float] = Field({}, description="the recipe's keyword arguments that differ from its own")


class WatershedConfig(Section):
    """How candidates are made from maps: seeds, their unions in a tree, and the cuts of each node."""

    mask_thresholds: Shares = Field(
        (0.25, 0.35, 0.45, 0.55, 0.65, 0.75), description="each tree node is cut at each of these"
    )
    floor: float = Field(0.2, ge=0, le=1, description="mask value below which nothing is flooded")
    center_weight: float = Field(0.5, ge=0, le=1, description="energy = weight·center + (1−weight)·mask·(1−border)")
    smooth_px: float = Field(1.0, ge=0, le=100, description="sigma of the blur that keeps noise from making maxima")
    depth: float = Field(0.04, ge=0, description="smallest rise of energy that makes a maximum a seed")
    max_leaves: int = Field(64, gt=0, description="a union of more seeds than this is no candidate")
    min_area_px: int = Field(12, ge=0, description="smaller candidates are dropped")


class ScorerConfig(Section):
    """The boosted trees that predict how well a candidate fits a nucleus."""

    leave_out: Annotated[tuple[str, ...], Distinct] = Field((), description="feature groups not used (for ablations)")
    rounds: int = Field(150, gt=0, description="boosting rounds")
    leaves: int = Field(31, gt=1, le=131072, description="leaves per tree, at most")
    learning_rate: float = Field(0.08, gt=0, description="share of each tree's prediction that is added")
    min_leaf_rows: int = Field(100, gt=0, description="candidates per leaf, at least")
    share: float = Field(0.5, gt=0, le=1, description="share of the rows and of the features that each tree sees")
    seeds: int = Field(2, gt=0, le=1000, description="boosters averaged")
    new_images: Literal["folds", "whole"] = Field(
        "folds",
        description="what scores candidates of images that no fold holds: the boosters of all folds, averaged, or one "
        "more set per seed that learns from all out-of-fold candidates, as many times faster",
        json_schema_extra=LATER,
    )
    seed: int = Field(2018, ge=0, description="seed of the first booster")
    outside: Name | None = Field(
        None,
        description="a run, also a published one, whose networks learned from none of data.external: the boosters also "
        "learn from candidates of its maps of those images, where nuclei look otherwise than in training",
        json_schema_extra=LATER,
    )


class LabelsConfig(Section):
    """Nuclei that another tool found."""

    folder: str = Field(
        "", description="label images of another tool, one TIFF or PNG per image id, for selection.method labels"
    )


class SelectionConfig(Section):
    """How nuclei are got from what the networks predict, or from the image itself."""

    method: str = Field(
        "scored",
        description="components, watershed and (of MaskRCNN) detections: plain decodings with thresholds tuned out of "
        "fold; classical and labels: no network at all (decoding/methods.py: METHODS)",
    )
    search: Literal["exact", "greedy"] = Field("exact", description="how the best set of candidates is found")
    keep_grid: Annotated[tuple[float, ...], Distinct] = Field(
        (-0.5, -0.4, -0.3, -0.25, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2),
        min_length=1,
        description="keep thresholds tried out of fold",
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="score, from 0 to 1 out of fold, given up to find more nuclei: of the keep thresholds "
        "within it of the best the lowest is taken",
        json_schema_extra=LATER,
    )
    keep_other: float | None = Field(
        None,
        description="keep threshold in images that were acquired otherwise than those of training; null: as in others",
        json_schema_extra=LATER,
    )
    grow: Annotated[str, AfterValidator(check_growth)] = Field(
        "0px",
        description="by how much outlines move outwards in images unlike those of training: '1.5px', or '15%' of the "
        "radius",
        json_schema_extra=LATER,
    )
    grow_familiar: Annotated[str, AfterValidator(check_growth)] = Field(
        "0px", description="by how much they do in the other images", json_schema_extra=LATER
    )


class SubmitConfig(Section):
    """What is submitted."""

    growths: Annotated[tuple[Annotated[str, AfterValidator(check_growth)], ...], Distinct] = Field(
        (), description="values of selection.grow, for each of which a further submission is written"
    )


class Config(Section):
    """Everything that decides what a run contains."""

    hypothesis: Text = Field("", description="one line: what this run is meant to show")
    system: Literal["", "classical", "vanilla_unet", "mask_rcnn", "deep_watershed", "full"] = Field(
        "", description="the system of the field (systems.py) that this run stands for"
    )
    members: dict[RunName, Positive] = Field(
        {}, description="runs whose maps are averaged -> weight; none: the run trains"
    )
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
    submit: SubmitConfig = Field(SubmitConfig(), json_schema_extra=LATER)

    def record_training(self) -> dict[str, Any]:
        """Return the settings that decide the trained networks, as Section.record does."""
        return {"model": self.model.record(), "train": self.train.record(), **self.data.record_external()}

    @model_validator(mode="after")
    def check_kind(self) -> "Config":
        """Refuse what only networks that give maps have, of one that gives something else."""
        changed = [f"{name}.{key}" for name, key in FOR_MAPS if is_changed(getattr(self, name), key)]
        if self.model.gives != "maps" and changed:
            raise ValueError(
                f"{', '.join(changed)}: for networks that give maps, not for {self.model.decoder}, "
                f"which gives {self.model.gives}"
            )
        if self.model.gives == "maps" and "mask" not in self.model.channels:
            raise ValueError("model.channels must have mask, of which nuclei are made")
        if self.model.gives == "maps" and not any(self.train.channel_weights.get(c, 1.0) for c in self.model.channels):
            raise ValueError("train.channel_weights are 0 for every channel of model.channels: nothing would be learnt")
        if 0 < self.train.pool < self.train.batch_size:
            raise ValueError(
                f"train.pool {self.train.pool} has fewer crops than a step takes: train.batch_size is "
                f"{self.train.batch_size}"
            )
        if self.train.teacher and (self.train.pool or self.train.cuda_graph):
            raise ValueError("train.teacher is not for train.pool or train.cuda_graph: a teacher sees each crop anew")
        if self.train.unlabelled and not self.train.teacher:
            raise ValueError("train.unlabelled needs train.teacher: nobody else says what is on those images")
        if self.train.cuda_graph and self.train.precision == "16-mixed":
            raise ValueError("train.cuda_graph is not for fp16, whose steps wait for the GPU on the way")
        return self
