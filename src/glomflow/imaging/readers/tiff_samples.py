"""What the stored samples of a TIFF mean: grey, colour, palette, alpha."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import Array
from glomflow.imaging.readers.alpha import over_white
from glomflow.imaging.readers.base import unsupported

_DECODED_TO_RGB = {6, 7, 33007, 34892, 50001, 34712, 33003, 33004, 33005, 50002, 52546, 22610}
_ALPHA = {1, 2}
_ASSOCIATED = 1
_RAMP_SHARE = 0.9
"""A palette is a grey ramp if so many entries are; cameras' software leaves system colours in it."""


@dataclass(frozen=True)
class SampleRules:
    """How stored samples become the samples of the image.

    Attributes:
        samples: Samples of a plane after :meth:`finish`.
        dtype: Their type.
        colour: Whether they are red, green and blue.
        palette: (entries, 3 or 1) samples that stored values stand for, or None.
        alpha: Whether the last of the stored samples is alpha.
        associated: Whether colours were multiplied by alpha already.
        inverted: Highest value, if the lowest is white, else None.
    """

    samples: int
    dtype: np.dtype[Any]
    colour: bool
    palette: Array | None = None
    alpha: bool = False
    associated: bool = False
    inverted: int | None = None

    @classmethod
    def of(cls, path: Path, file: Any, series: Any) -> SampleRules:
        """Reads the rules from the tags of a series' first page.

        Args:
            path: The file, for messages.
            file: ``tifffile.TiffFile``.
            series: The series.

        Raises:
            ImageError: ``unsupported_format``, for a colour space or sample type that is not handled.
        """
        page = series.keyframe
        kind, stored = page.photometric.name, page.dtype
        count = int(page.shaped[0] * page.shaped[4])
        extra = tuple(int(value) for value in page.extrasamples)
        if stored is None or stored.kind not in "buif":
            raise unsupported(path, f"samples of type {stored or 'unknown'} are not handled")
        dtype = np.dtype(np.uint8) if stored.kind == "b" else np.dtype(stored)
        alpha = count in (2, 4) and bool(extra) and extra[-1] in _ALPHA
        associated = alpha and extra[-1] == _ASSOCIATED
        shown = count - alpha
        if kind == "PALETTE":
            return cls._with_palette(file, page, dtype)
        if kind in ("RGB", "YCBCR") and count >= 3:
            if kind == "YCBCR" and int(page.compression) not in _DECODED_TO_RGB:
                raise unsupported(path, "uncompressed YCbCr colours are not handled", "export it as RGB")
            return cls(3, dtype, True, alpha=alpha, associated=associated)
        if kind == "MINISWHITE":
            top = 255 if stored.kind == "b" else 2 ** int(page.bitspersample) - 1
            inverted = top if dtype.kind == "u" else None
            return cls(shown, dtype, False, alpha=alpha, associated=associated, inverted=inverted)
        if kind in ("MINISBLACK", "RGB", "LINEAR_RAW"):
            return cls(shown, dtype, False, alpha=alpha, associated=associated)
        raise unsupported(path, f"the colour space {kind} is not handled", "export it as RGB")

    @classmethod
    def _with_palette(cls, file: Any, page: Any, dtype: np.dtype[Any]) -> SampleRules:
        if page.colormap is None or file.is_ome or file.is_imagej:
            return cls(1, dtype, False)
        colours = np.asarray(page.colormap).T
        eight_bit = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        ramp = np.abs(eight_bit.astype(int) - np.arange(len(eight_bit))[:, None]).max(axis=1) <= 1
        if ramp.mean() >= _RAMP_SHARE:
            return cls(1, dtype, False)
        if (eight_bit == eight_bit[:, :1]).all():
            return cls(1, np.dtype(np.uint8), False, palette=eight_bit[:, :1])
        return cls(3, np.dtype(np.uint8), True, palette=eight_bit)

    def finish(self, stored: Array) -> Array:
        """Returns the samples that stored samples (h, w, n) stand for, (h, w, samples)."""
        if self.palette is not None:
            looked_up: Array = self.palette[np.minimum(stored[:, :, 0], len(self.palette) - 1)]
            return looked_up
        if stored.dtype.kind == "b":
            stored = stored.astype(np.uint8) * np.uint8(255)
        shown = stored[:, :, : self.samples]
        if self.inverted is not None:
            top = self.dtype.type(self.inverted)
            shown = top - np.minimum(shown, top)
        if self.alpha:
            shown = over_white(shown, stored[:, :, -1], associated=self.associated)
        return np.ascontiguousarray(shown)
