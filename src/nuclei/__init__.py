"""Find every nucleus of a microscope image as its own mask (2018 Data Science Bowl)."""
