"""The section ``imaging.quality`` of the configuration."""

from __future__ import annotations

from glomflow.config_base import Section


class Quality(Section):
    """Thresholds below or above which an image is flagged as poor."""
