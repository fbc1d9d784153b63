"""Which of the images that an annotation file covers is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from glomflow.imaging.annotations.outline import no_annotation

_LISTED = 5


def choose_image(names: Sequence[str], image_name: str | None, where: str) -> int:
    """Says which of several images a name means.

    A name of the file means the image if the two are equal; failing that, if one path ends with the
    other, if the file names are equal, or if they are equal but for the suffix (images are often
    converted for annotation). The first of these rules that some image meets decides.

    Args:
        names: Names of the images that the annotation file covers.
        image_name: Path or name of the image; None if it is not known.
        where: The annotation file, for messages.

    Returns:
        The place of the image in ``names``.

    Raises:
        ImageError: ``no_annotation``, if no image or more than one is meant. The reason names the
            images that the file holds.
    """
    if image_name is None:
        if len(names) == 1:
            return 0
        raise no_annotation(
            f"{where} holds {listing(names)}; say which image is meant, or export one file per image"
        )
    wanted = _path(image_name)
    rules: tuple[Callable[[PurePosixPath], bool], ...] = (
        lambda path: path == wanted,
        lambda path: _ends_with(path, wanted) or _ends_with(wanted, path),
        lambda path: path.name == wanted.name,
        lambda path: _stem(path) == _stem(wanted),
    )
    for rule in rules:
        fitting = [index for index, name in enumerate(names) if rule(_path(name))]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            several = listing([names[index] for index in fitting])
            raise no_annotation(
                f"{where}: the image '{image_name}' may be any of {several}; rename the images so that their "
                "names differ, or export one file per image"
            )
    raise no_annotation(
        f"{where} holds {listing(names)}, but not '{image_name}'; correct the column 'annotation' of "
        "images.csv, or export this image's annotation too"
    )


def listing(names: Sequence[str]) -> str:
    """Returns images as a phrase: '3 images (a.png, b.png, c.png)'."""
    if not names:
        return "no image"
    shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"{len(names)} image{'s'[: len(names) > 1]} ({shown})"


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.strip().replace("\\", "/"))


def _ends_with(path: PurePosixPath, tail: PurePosixPath) -> bool:
    return len(tail.parts) > 1 and path.parts[-len(tail.parts) :] == tail.parts


def _stem(path: PurePosixPath) -> str:
    stem = path.stem if path.suffix else path.name
    return stem[:-4] if stem.lower().endswith(".ome") else stem
