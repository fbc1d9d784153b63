"""PNG, JPEG and their like, which are decoded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glomflow.imaging.pixels import RGB, Array
from glomflow.imaging.readers.alpha import over_white
from glomflow.imaging.readers.base import ImageReader, decoding, unreadable, unsupported
from glomflow.imaging.readers.metadata import Size, from_resolution

FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP")
MOST_PIXELS = 178_956_970
"""Images beyond this are refused; Pillow's own limit (twice ``Image.MAX_IMAGE_PIXELS``)."""

_GRAY = {"1": np.uint8, "L": np.uint8, "LA": np.uint8, "I": np.int32, "F": np.float32}
_ORIENTATION = 0x0112
_SIDEWAYS = {5, 6, 7, 8}


def _too_large(path: Path, size: str) -> Exception:
    return unsupported(
        path,
        f"{size} too large for a format that can only be decoded whole "
        f"(the limit is {MOST_PIXELS // 10**6} megapixels)",
        "export it as tiled TIFF",
    )


class RasterReader(ImageReader):
    """Reads PNG, JPEG, BMP and WebP through Pillow, decoded once, when pixels are first asked for.

    The EXIF orientation is honoured, alpha is laid over white, palettes and CMYK become RGB.
    """

    def __init__(self, path: Path) -> None:
        """Opens an image. Pixels are decoded later, but for PNG, whose orientation may come last.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable``, or ``unsupported_format`` for an image beyond the size limit.
        """
        from PIL import Image

        with decoding(path):
            try:
                self._image = Image.open(path, formats=FORMATS)
            except Image.DecompressionBombError as error:
                raise _too_large(path, "it is") from error
        self._pixels: Array | None = None
        image = self._image
        try:
            with decoding(path):
                mode = image.mode
                sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
                pixel_size = _dpi(image, sideways)
            size = (image.height, image.width) if sideways else image.size
            gray = mode in _GRAY or mode.startswith("I;16")
            dtype = np.uint8 if not gray else np.uint16 if mode.startswith("I;16") else _GRAY[mode]
            super().__init__(
                "raster",
                path,
                levels=(size,),
                channels=("gray",) if gray else RGB,
                dtype=np.dtype(dtype),
                pixel_size=pixel_size,
            )
        except BaseException:
            image.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._pixels = None
        self._image.close()

    def check(self) -> None:
        """Decodes the image.

        Raises:
            ImageError: ``unreadable``, if it is damaged.
        """
        self._decoded()

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        return self._decoded()[top:bottom, left:right]

    def _decoded(self) -> Array:
        if self._pixels is None:
            from PIL import ImageOps

            with decoding(self.path):
                ImageOps.exif_transpose(self._image, in_place=True)
                self._pixels = _samples(self._image, self.dtype)
        return self._pixels


def _dpi(image: Any, sideways: bool) -> Size | None:
    dpi = image.info.get("dpi")
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None
    return from_resolution(*(dpi[::-1] if sideways else dpi), 25400.0)


def _samples(image: Any, dtype: np.dtype[Any]) -> Array:
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        with_alpha = np.asarray(image.convert("LA" if image.mode in ("L", "LA") else "RGBA"))
        return over_white(with_alpha[:, :, :-1], with_alpha[:, :, -1])
    if image.mode in _GRAY or image.mode.startswith("I;16"):
        gray = image.convert("L") if image.mode == "1" else image
        return np.asarray(gray).astype(dtype)[:, :, None]
    return _colour(image if image.mode == "RGB" else image.convert("RGB"))


def _colour(image: Any) -> Array:
    """Returns the pixels of an RGB image, (h, w, 3).

    Pillow pads pixels to four bytes and takes a third of the time of decoding a JPEG to take the padding
    off; through Arrow it hands out the padded bytes as they lie in memory.
    """
    import pyarrow as pa

    from glomflow.imaging.pixel_kernels import read_only, without_padding

    image.load()
    try:
        padded = pa.array(image)
    except ValueError:  # the pixels lie in several blocks of memory, as those of large images do
        return np.asarray(image)
    words = padded.flatten().to_numpy(zero_copy_only=True).view("<u4")
    # Four pixels at a time; the last few may be padded to four.
    whole = words.size // 4 * 4
    pixels = np.empty(-(-words.size // 4) * 3, "<u4")
    without_padding(read_only(words[:whole]), pixels[: whole // 4 * 3])
    if whole < words.size:
        without_padding(read_only(np.resize(words[whole:], 4)), pixels[-3:])
    samples: Array = pixels.view(np.uint8)[: words.size * 3]
    return samples.reshape(image.height, image.width, 3)


class Jpeg2000Reader(ImageReader):
    """Reads JPEG 2000 through imagecodecs, decoded when it is opened."""

    def __init__(self, path: Path) -> None:
        """Opens and decodes an image.

        Args:
            path: The file.

        Raises:
            ImageError: ``unreadable``, or ``unsupported_format`` for an image beyond the size limit.
        """
        import imagecodecs

        with decoding(path):
            data = path.read_bytes()
            width, height = _jpeg2000_size(data)
            if not width * height > 0:
                raise unreadable(path, "its header gives no size")
            if width * height > MOST_PIXELS:
                raise _too_large(path, f"{width} x {height} px are")
            pixels = np.asarray(imagecodecs.jpeg2k_decode(data))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if pixels.shape[2] in (2, 4):
            pixels = over_white(pixels[:, :, :-1], pixels[:, :, -1])
        self._pixels = pixels
        count = pixels.shape[2]
        names = {1: ("gray",), 3: RGB}.get(count) or tuple(f"C{index}" for index in range(count))
        super().__init__(
            "jpeg2000",
            path,
            levels=((pixels.shape[1], pixels.shape[0]),),
            channels=names,
            dtype=pixels.dtype,
            pixel_size=None,
        )

    def close(self) -> None:
        """Lets go of the pixels."""
        self._pixels = self._pixels[:0, :0]

    def check(self) -> None:
        """Does nothing: the image was decoded when it was opened."""

    def _decode(self, level: int, left: int, top: int, right: int, bottom: int) -> Array:
        return self._pixels[top:bottom, left:right]


def _jpeg2000_size(data: bytes) -> tuple[int, int]:
    header = data.find(b"ihdr", 0, 4096)
    if header >= 0:
        height, width = (int.from_bytes(data[header + at : header + at + 4], "big") for at in (4, 8))
        return width, height
    right, bottom, left, top = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16, 20))
    return right - left, bottom - top
