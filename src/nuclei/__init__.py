"""Find every nucleus of a microscope image as its own mask (2018 Data Science Bowl)."""

import os

# Threads that wait are to sleep: beside other work, spinning ones slow LightGBM and torch many times over.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# albumentations would ask the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
