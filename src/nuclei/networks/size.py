"""The first look at an image whose nuclei may be far from the size of those that its networks learned.

At half of the size that networks would be given it finds nuclei that are too large for them, too, which at the full
size fall to pieces, and still most of the small ones.
"""

from nuclei.config.schema import PredictConfig

LOOK = PredictConfig(tta="none", scales=(0.45,))
LOOK_SETTING = {"seed_level": 0.5, "mask_threshold": 0.45}  # of a plain watershed
# Of the size that images are enlarged to: what the first look measures is no more exact, and networks learn a range.
NEAR = 1.35
