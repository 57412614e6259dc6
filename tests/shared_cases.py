"""Small inputs of the kinds that users bring, where they lie beside the project: ../shared/cases."""

from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "shared/cases"


def find_case(name: str) -> Path:
    """Return the path of a shared case; skip the test, saying so, where the cases are not shared."""
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{name} is not at ../shared/cases")
    return path
