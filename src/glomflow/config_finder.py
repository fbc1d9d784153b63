"""The section ``imaging.finder`` of the configuration."""

from __future__ import annotations

from pydantic import Field

from glomflow.config_base import Section


class Finder(Section):
    """Finding glomeruli in images that nobody outlined."""

    enabled: bool = Field(
        False, description="Find glomeruli in OM images of kind `field` that have no annotation."
    )
