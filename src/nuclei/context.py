"""What the features of one image share, each part computed when first asked for."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from nuclei import relations, shape
from nuclei.candidates import Candidates
from nuclei.channels import Regions, Summary, summarise_channel

NEIGHBOUR_RADII_PX = (50, 100, 150, 200)
FOREGROUND_PROBABILITY = 0.5  # mask map above which a pixel belongs to the image's foreground


class Context:
    """Hold the candidates, maps and image that features are computed from, and what they have in common."""

    def __init__(self, candidates: Candidates, maps: Mapping[str, np.ndarray], image: np.ndarray):
        self.candidates, self.image = candidates, image
        self.sources = {**maps, "image": image}
        self.summaries: dict[str, Summary] = {}

    @cached_property
    def area_px(self) -> np.ndarray:
        return self.candidates.area_px().astype(np.float64)

    @cached_property
    def boxes(self) -> shape.Boxes:
        return shape.bound_candidates(self.candidates)

    @cached_property
    def canvas(self) -> shape.Canvas:
        return shape.draw_canvas(self.candidates, self.boxes)

    @cached_property
    def ellipses(self) -> dict[str, np.ndarray]:
        return shape.measure_ellipses(self.candidates, self.boxes)

    @cached_property
    def hulls(self) -> dict[str, np.ndarray]:
        return shape.measure_hulls(self.candidates)

    @cached_property
    def outlines(self) -> dict[str, np.ndarray]:
        return shape.measure_outlines(self.candidates, self.canvas)

    @cached_property
    def tree(self) -> dict[str, np.ndarray]:
        return relations.measure_tree(self.candidates)

    @cached_property
    def neighbours(self) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        centroid = np.stack([self.ellipses["centroid_y"], self.ellipses["centroid_x"]], axis=1)
        return relations.measure_neighbours(self.candidates, centroid, NEIGHBOUR_RADII_PX)

    @cached_property
    def leaf_area_px(self) -> np.ndarray:
        """Areas of the leaves, each at its middle threshold."""
        is_leaf = relations.find_leaves(self.candidates.parent)
        representative = relations.choose_representatives(self.candidates)[is_leaf]
        return self.area_px[representative[representative >= 0]]

    @cached_property
    def regions(self) -> Regions:
        size = self.image.shape[0] * self.image.shape[1]
        mask = self.sources.get("mask", np.zeros(size)).reshape(-1)
        return Regions(
            inside=shape.membership(self.candidates),
            rim=shape.find_rims(self.candidates, self.canvas),
            ring=shape.find_rings(self.candidates, self.canvas),
            foreground=(mask > FOREGROUND_PROBABILITY).astype(np.float64),
        )

    def channel(self, name: str) -> Summary:
        """Return the summary of one of CHANNELS, computed when first asked for."""
        if name not in self.summaries:
            self.summaries[name] = summarise_channel(name, self.sources, self.regions)
        return self.summaries[name]
