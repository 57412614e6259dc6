"""The ways to get nuclei from an image: METHODS, one entry each.

To add a way that decodes what networks predict, write a function like `decode_watershed`; to add one that needs no
network, write a function like `segment_classically`. Then add an entry: stages, predictor, tables and write-up know the
method by that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nuclei.candidates.context import Context, Whole, describe_whole
from nuclei.candidates.features import compute_features
from nuclei.candidates.outlines import Growth
from nuclei.candidates.selection import SEARCHES, expected_gain
from nuclei.candidates.table import Candidates
from nuclei.candidates.tree import make_candidates, make_energy
from nuclei.config.schema import Config, SelectionConfig
from nuclei.data.label_folder import LabelFolder
from nuclei.decoding.classical import segment_by_recipe
from nuclei.decoding.detections import Detections, decode_detections, make_detection_candidates
from nuclei.decoding.plain import cut_basins, decode_components, flood_seeds
from nuclei.errors import UserError

Labels = NDArray[np.int32]
Setting = Mapping[str, Any]  # thresholds by name
FOLD_DISAGREEMENT = "fold_disagreement"


@dataclass(frozen=True)
class Prediction:
    """Hold what networks say of one image: maps float32 [H, W] in 0..1 by channel, and detections where they detect."""

    maps: Mapping[str, NDArray[np.float32]]
    detections: Detections | None = None


def no_options(_config: Config) -> list[Setting]:
    """Return no settings: nothing of the method is tuned."""
    return []


def no_settings(_config: Config) -> dict[str, Any]:
    """Return no settings: the method segments no image by itself."""
    return {}


def no_inputs(_config: Config) -> dict[str, str]:
    """Return no inputs: the method reads nothing beside the image."""
    return {}


@dataclass(frozen=True)
class Method:
    """Hold one way to get nuclei from an image.

    needs: what the nuclei are made from: 'maps' or 'detections' of networks, by `decode`; scored 'candidates'; or the
    'image' alone, by `segment`. decode takes the settings to be tried and yields the labels, int32 [H, W], under each;
    what settings have in common it computes once. segment takes an image, uint8 [H, W, 3], its id, the config and,
    where it is a part of a larger one, a sample of that.
    """

    title: str  # in tables
    sentence: str  # in the write-up
    needs: Literal["image", "maps", "detections", "candidates"]
    options: Callable[[Config], list[Setting]] = no_options  # the settings tried out of fold
    decode: Callable[[Prediction, Config, Sequence[Setting]], Iterator[Labels]] | None = None
    segment: Callable[..., Labels] | None = None
    settings: Callable[[Config], dict[str, Any]] = no_settings  # what `segment` reads of a config
    inputs: Callable[[Config], dict[str, str]] = no_inputs  # hashes of what it reads from disk
    floods: bool = False  # whether the nuclei come from flooding an energy made of maps


def list_component_settings(config: Config) -> list[Setting]:
    """Return the mask thresholds tried."""
    return [{"mask_threshold": t} for t in config.plain.mask_thresholds]


def list_watershed_settings(config: Config) -> list[Setting]:
    """Return the pairs of seed level and mask threshold tried, those of one seed level together."""
    return [
        {"seed_level": s, "mask_threshold": t} for s in config.plain.seed_levels for t in config.plain.mask_thresholds
    ]


def list_detection_settings(config: Config) -> list[Setting]:
    """Return the pairs of score and mask threshold tried."""
    return [{"score": s, "mask_threshold": t} for s in config.plain.scores for t in config.plain.mask_thresholds]


def decode_mask(prediction: Prediction, config: Config, settings: Sequence[Setting]) -> Iterator[Labels]:
    """Yield the connected components of the mask map under each setting."""
    for setting in settings:
        yield decode_components(prediction.maps["mask"], setting["mask_threshold"], config.watershed.min_area_px)


def decode_watershed(prediction: Prediction, config: Config, settings: Sequence[Setting]) -> Iterator[Labels]:
    """Yield the basins of the seeds of each setting; neighbouring settings of one seed level share the flooding."""
    mask = prediction.maps["mask"]
    energy, region = (
        make_energy(prediction.maps, config.watershed.center_weight),
        mask > min(config.plain.mask_thresholds),
    )
    for seed_level, group in groupby(settings, key=lambda setting: setting["seed_level"]):
        basins = flood_seeds(energy, seed_level, region)
        for setting in group:
            yield cut_basins(basins, mask, setting["mask_threshold"], config.watershed.min_area_px)


def paint_detections(prediction: Prediction, config: Config, settings: Sequence[Setting]) -> Iterator[Labels]:
    """Yield the detections above the score of each setting, painted from the best to the worst."""
    assert prediction.detections is not None, "decoding detections needs a network that detects"
    shape, min_area_px = prediction.maps["mask"].shape, config.watershed.min_area_px
    for setting in settings:
        yield decode_detections(prediction.detections, shape, setting["score"], setting["mask_threshold"], min_area_px)


def cut_candidates(
    prediction: Prediction, image: NDArray[np.uint8], config: Config, whole: Whole | None = None
) -> tuple[Candidates, pd.DataFrame]:
    """Return the N candidates of an image, uint8 [H, W, 3], and their features, float32 [N, F].

    whole: what is known of the image that this one is a part of.
    """
    candidates, maps = find_candidates(prediction, image, config)
    return candidates, compute_features(candidates, maps, image, whole=whole)


def find_candidates(
    prediction: Prediction, image: NDArray[np.uint8], config: Config
) -> tuple[Candidates, dict[str, NDArray[np.float32]]]:
    """Return the N candidates of an image, uint8 [H, W, 3], and the maps that their features are computed from."""
    # Only maps of unseen images have it, so nothing can be learned from it.
    maps = {name: values for name, values in prediction.maps.items() if name != FOLD_DISAGREEMENT}
    if prediction.detections is None:
        return make_candidates(maps, config.watershed), maps
    return make_detection_candidates(prediction.detections, image.shape[:2], config.watershed), maps


def describe_parts(
    predict: Callable[[NDArray[np.uint8]], Prediction],
    parts: Sequence[NDArray[np.uint8]],
    config: Config,
    n_pixels: int,
) -> Whole:
    """Return what features say of an image of `n_pixels` from a sample of its parts, uint8 [H, W, 3] each."""
    contexts = []
    for part in parts:
        candidates, maps = find_candidates(predict(part), part, config)
        contexts.append(Context(candidates, maps, part))
    return describe_whole(contexts, n_pixels)


def choose_candidates(
    candidates: Candidates,
    scores: NDArray[np.float32],
    setting: Setting,
    settings: SelectionConfig,
    is_other: bool = False,
) -> NDArray[np.int64]:
    """Return the indices of the candidates selected under a tuned setting; scores: [N, 11], as boosters.TARGETS.

    is_other: whether the image was acquired otherwise than those of training, as predictions.is_other tells.
    """
    keep = settings.keep_other if is_other and settings.keep_other is not None else setting["keep"]
    gain = expected_gain(scores[:, :-1], np.array(setting["precision"])) - keep
    return SEARCHES[settings.search](candidates, gain)


def choose_growth(settings: SelectionConfig, is_other: bool = False) -> Growth:
    """Return by how much the outlines of an image's nuclei move, by selection.grow or selection.grow_familiar."""
    return Growth.parse(settings.grow if is_other else settings.grow_familiar)


def treats_others(settings: SelectionConfig) -> bool:
    """Return whether images that were acquired otherwise than those of training are treated otherwise."""
    return settings.grow != settings.grow_familiar or settings.keep_other is not None


def segment_classically(
    image: NDArray[np.uint8], _image_id: str, config: Config, sample: NDArray[np.uint8] | None = None
) -> Labels:
    """Segment an image by the config's classical recipe; sample: of the whole image, if this is a part of it."""
    return segment_by_recipe(image, config.classical, sample)


def read_imported(
    image: NDArray[np.uint8], image_id: str, config: Config, _sample: NDArray[np.uint8] | None = None
) -> Labels:
    """Read the labels that another tool gave an image."""
    return LabelFolder(config.labels.folder).read(image_id, image.shape[:2])


# From the plainest; of those that decode the same thing, a run is scored by each up to its own.
METHODS: dict[str, Method] = {
    "classical": Method(
        "classical recipe",
        "No network: a classical recipe on the image itself.",
        "image",
        segment=segment_classically,
        settings=lambda config: {"classical": config.classical.record()},
    ),
    "labels": Method(
        "label images of another tool",
        "No network of this project: the nuclei are those of label images that another tool wrote.",
        "image",
        segment=read_imported,
        settings=lambda config: {"labels": config.labels.record()},
        inputs=lambda config: {"labels": LabelFolder(config.labels.folder).hash_files()},
    ),
    "components": Method(
        "components",
        "Nuclei are the connected components of the mask map above a threshold chosen on the other folds.",
        "maps",
        list_component_settings,
        decode_mask,
    ),
    "watershed": Method(
        "watershed",
        "A watershed floods an energy made of these maps from its parts above a seed level and cuts the basins at a "
        "mask threshold; both thresholds were chosen on the other folds.",
        "maps",
        list_watershed_settings,
        decode_watershed,
        floods=True,
    ),
    "detections": Method(
        "detections",
        "Nuclei are the network's detections above a score chosen on the other folds.",
        "detections",
        list_detection_settings,
        paint_detections,
    ),
    "scored": Method(
        "candidate scoring",
        "A deep watershed floods an energy made of these maps and merges the basins into a tree of nested "
        "candidates: parts, nuclei and clumps, each at several thresholds. LightGBM predicts from {n_features} "
        "features how likely the IoU of each candidate passes each of the metric's ten thresholds. {search}, "
        "above a keep threshold chosen on the other folds.",
        "candidates",
        floods=True,
    ),
}


def method_of(config: Config) -> Method:
    """Return the method of a run."""
    return METHODS[config.selection.method]


def is_scored(config: Config) -> bool:
    """Return whether a run's nuclei are scored candidates."""
    return method_of(config).needs == "candidates"


def uses_networks(config: Config) -> bool:
    """Return whether a run's nuclei come from networks, its own or its members'."""
    return method_of(config).needs != "image"


def plain_methods(config: Config) -> tuple[str, ...]:
    """Return the plain decodings, from the plainest, that a run is also scored by."""
    if not uses_networks(config):
        return ()
    return tuple(name for name, method in METHODS.items() if method.needs == config.model.gives)


def list_steps(config: Config) -> tuple[str, ...]:
    """Return the decodings that a run is scored by, from the plainest to its own."""
    own, plain = config.selection.method, plain_methods(config)
    return plain[: plain.index(own) + 1] if own in plain else (*plain, own)


def check_method(config: Config) -> None:
    """Raise UserError if a config's method is unknown or decodes what its network does not give."""
    gives, method = config.model.gives, config.selection.method
    possible = [name for name, one in METHODS.items() if one.needs in ("image", gives, "candidates")]
    if method not in METHODS:
        raise UserError(f"selection.method: unknown method {method!r}; valid: {', '.join(possible)}")
    if method not in possible:
        raise UserError(
            f"selection.method: {method} is not for {config.model.decoder}, which gives {gives}; "
            f"valid: {', '.join(possible)}"
        )
