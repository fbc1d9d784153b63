"""Reading annotations of any format, told apart by what a file holds."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from glomflow.errors import ImageError
from glomflow.imaging.annotations import boxes, coco, cvat, geojson, imagej, labelme, masks
from glomflow.imaging.annotations.outline import Outline, no_annotation, unreadable

PNG = b"\x89PNG"
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
ZIP = b"PK\x03\x04"
BOM = b"\xef\xbb\xbf"
KIND_OF_SUFFIX = {
    ".geojson": "json",
    ".json": "json",
    ".png": "png",
    ".roi": "roi",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".xml": "xml",
    ".zip": "zip",
}
"""What a file is taken for if its content does not tell, so that the message names that format."""
FORMATS = (
    "GeoJSON, CVAT XML, COCO JSON, labelme JSON, ImageJ .roi or RoiSet zip, a label mask (PNG or TIFF), or "
    "boxes in CSV"
)
_LARGEST_MEMBER = 512 * 2**20


def read_outlines(path: Path, *, image_size: tuple[int, int], image_name: str | None = None) -> list[Outline]:
    """Reads the outlines of an image.

    The format is told by the content of the file, not by its name:

    - GeoJSON: a FeatureCollection, a list of features or a single Feature, in px of the image at full
      resolution. Polygons and MultiPolygons are outlines (each polygon of a MultiPolygon is one, but
      for brush specks); holes are ignored, and so are points and lines. The lesion class is the
      property ``lesion``, else the name of QuPath's ``classification``.
    - CVAT for images 1.1, COCO and labelme; several images may share a file of the first two.
    - ImageJ ``.roi`` files and RoiSet zips.
    - Label masks (PNG or TIFF): 0 is background, every other integer one glomerulus. A mask of one
      value is split into its connected components; so is an 8-bit mask of 0 and 255 with grey edges,
      as resizing makes them, after a threshold at 128.
    - Boxes in CSV.

    Any of them may be the one file of a zip. Annotations of the image at another size (masks, and where
    the file states the size: CVAT, COCO, labelme) are scaled to it.

    Args:
        path: The annotation file.
        image_size: Width and height of the image at full resolution, px.
        image_name: Path or name of the image; needed where the file covers several.

    Returns:
        At least one outline, in the order of the file or of the labels.

    Raises:
        ImageError: ``no_annotation``, if the file is missing or holds no usable outline of the image;
            ``unreadable``, if it is damaged or of an unknown kind. The reason names the file, the
            place in it and what to change.
    """
    path = Path(path)
    if not path.is_file():
        raise no_annotation(
            f"annotation '{path}' does not exist; correct the column 'annotation' of images.csv"
        )
    where = f"annotation '{path}'"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(f"{where} cannot be read ({error}); copy it again") from error
    outlines = _outlines(content, path.suffix.lower(), where, image_size, image_name)
    width, height = image_size
    for number, outline in enumerate(outlines, 1):
        left, top, right, bottom = outline.box
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise no_annotation(
                f"annotation '{path}', outline {number}: it lies at x {left:.0f} to {right:.0f}, y {top:.0f} "
                f"to {bottom:.0f}, outside the image of {width} x {height} px; export it in pixels of "
                "the image at full resolution, or remove it"
            )
    return outlines


def verify_annotation(path: Path, image_size: tuple[int, int], *, image_name: str | None = None) -> None:
    """Checks that an annotation can be used.

    Args:
        path: The annotation file.
        image_size: Width and height of the image at full resolution, px.
        image_name: Path or name of the image; needed where the file covers several.

    Raises:
        ImageError: As :func:`read_outlines` does.
    """
    read_outlines(path, image_size=image_size, image_name=image_name)


def _outlines(
    content: bytes, suffix: str, where: str, image_size: tuple[int, int], image_name: str | None
) -> list[Outline]:
    kind = _kind(content, suffix)
    if kind == "zip":
        return _from_zip(content, where, image_size, image_name)
    if kind == "roi":
        name = where.removeprefix("annotation '").removesuffix("'")
        return imagej.outlines_of([(PurePosixPath(name).name, content)], where)
    if kind in ("png", "tiff"):
        return masks.outlines_of(content, where, image_size, is_png=kind == "png")
    if kind == "json":
        return _from_json(content, suffix, where, image_size, image_name)
    if kind == "xml":
        return cvat.outlines_of(content, where, image_size, image_name)
    return _from_csv(content, suffix, where, image_name)


def _kind(content: bytes, suffix: str) -> str:
    """Returns what a file is by its first bytes, or by its suffix where these say nothing."""
    if content.startswith(ZIP):
        return "zip"
    if content.startswith(imagej.MAGIC):
        return "roi"
    if content.startswith(PNG):
        return "png"
    if content.startswith(TIFF):
        return "tiff"
    start = content[:64].removeprefix(BOM).lstrip()[:1]
    return {b"{": "json", b"[": "json", b"<": "xml"}.get(start) or KIND_OF_SUFFIX.get(suffix, "csv")


def _from_csv(content: bytes, suffix: str, where: str, image_name: str | None) -> list[Outline]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if suffix == ".csv":
            raise unreadable(f"{where} is not UTF-8 ({error}); save it as 'CSV UTF-8'") from error
        raise unreadable(f"{where} is of no known format; export it as {FORMATS}") from error
    if suffix != ".csv" and not boxes.is_boxes(text):
        raise unreadable(f"{where} is of no known format; export it as {FORMATS}")
    return boxes.outlines_of(text, where, image_name)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses the search for reference cycles, which takes longer than parsing a million points does."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _from_json(
    content: bytes, suffix: str, where: str, image_size: tuple[int, int], image_name: str | None
) -> list[Outline]:
    try:
        with _no_garbage_collection():
            document = json.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        kind = "GeoJSON" if suffix == ".geojson" else "JSON"
        raise unreadable(f"{where} is not {kind} ({error}); export it again") from error
    if coco.is_coco(document):
        return coco.outlines_of(document, where, image_size, image_name)
    if labelme.is_labelme(document):
        return labelme.outlines_of(document, where, image_size)
    if isinstance(document, list) or (
        isinstance(document, dict) and document.get("type") in ("FeatureCollection", "Feature")
    ):
        return geojson.outlines_of(document, where)
    raise unreadable(
        f"{where} is JSON, but neither GeoJSON (a FeatureCollection, list of features or Feature) nor COCO "
        "nor labelme; export it as one of these"
    )


def _from_zip(
    content: bytes, where: str, image_size: tuple[int, int], image_name: str | None
) -> list[Outline]:
    """Reads an archive of ImageJ regions, or of one file of another format."""
    members = _unpacked(content, where)
    if members and members[0][0].lower().endswith(".roi"):
        return imagej.outlines_of(members, where)
    if not members:
        raise unreadable(f"{where} is a zip without annotations; it should hold {FORMATS}")
    if len(members) > 1:
        names = ", ".join(name for name, _ in members[:5])
        raise unreadable(
            f"{where} is a zip of several annotation files ({names}); unpack it and name the file "
            "of each image"
        )
    name, inner = members[0]
    within = f"{where}, file '{name}'"
    if inner.startswith(ZIP):
        raise unreadable(f"{within} is a zip within a zip; unpack it")
    return _outlines(inner, PurePosixPath(name).suffix.lower(), within, image_size, image_name)


def _unpacked(content: bytes, where: str) -> list[tuple[str, bytes]]:
    """Returns names and contents of an archive's regions, else of its other annotations."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if _is_wanted(member.filename)]
            chosen = [member for member in members if member.filename.lower().endswith(".roi")]
            chosen = chosen or _documents(members)
            large = [member.filename for member in chosen if member.file_size > _LARGEST_MEMBER]
            if large:
                raise unreadable(
                    f"{where}: its file '{large[0]}' is larger than 512 MB; unpack the archive and export "
                    "less at once"
                )
            return [(member.filename, archive.read(member)) for member in chosen]
    except ImageError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
    ) as error:
        raise unreadable(f"{where} is a damaged or encrypted zip ({error}); export it again") from error


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return not name.endswith("/") and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _documents(members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Returns the annotation files of an archive; pictures beside them are the annotated images."""
    texts = [
        member
        for member in members
        if PurePosixPath(member.filename).suffix.lower() in (".json", ".geojson", ".xml", ".csv")
    ]
    return texts or list(members)
