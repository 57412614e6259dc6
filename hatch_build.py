"""What pip's build backend asks when it builds the package: the published weights go into a wheel."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PUBLISHED = {f"ensembles/{name}/bundle": f"nuclei/published/{name}/bundle" for name in ("once_mobilenets", "fast")}


class PublishedWeights(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the weights to a wheel; an editable installation, of a clone, reads them where they lie."""
        if version == "standard":
            build_data["force_include"].update(PUBLISHED)
