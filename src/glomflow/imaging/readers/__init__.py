"""Readers of image files behind one small interface."""

from glomflow.imaging.readers.base import ImageReader
from glomflow.imaging.readers.registry import open_image

__all__ = ["ImageReader", "open_image"]
