"""Markers, colours, brightness and hues of immunofluorescence images."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from glomflow.config import ImCrops
from glomflow.errors import ImageError
from glomflow.imaging.im_channels import brightness, channel_markers, compose, has_one_hue, same_marker


@pytest.mark.parametrize(
    ("channels", "marker", "expected"),
    [
        (("IgG", "IgA"), None, ("IgG", "IgA")),
        (("C0", "C1"), "IgG;C3", ("IgG", "C3")),
        (("R", "G", "B"), None, ()),
        (("R", "G", "B"), "", ()),
        (("R", "G", "B"), "IgG", ("IgG",)),
        (("gray",), " C1q ;", ("C1q",)),
    ],
)
def test_channel_markers(channels: tuple[str, ...], marker: str | None, expected: tuple[str, ...]) -> None:
    assert channel_markers("a.tif", channels, marker) == expected


def test_two_markers_of_a_colour_picture_are_a_problem() -> None:
    with pytest.raises(ImageError, match=r"names 2 markers \(IgG, IgA\) but the file has 3 channels"):
        channel_markers("a.png", ("R", "G", "B"), "IgG;IgA")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("IgG", "igg", True),
        ("Anti-IgG", "Ig G", True),
        ("C-1q", "c1Q", True),
        ("anti_C3", "C3", True),
        ("IgG", "IgA", False),
        ("C3", "C3d", False),
    ],
)
def test_same_marker(first: str, second: str, same: bool) -> None:
    assert same_marker(first, second) is same


def test_compose_takes_the_mean_of_the_markers_there() -> None:
    levels = {"C3": np.full((2, 2), 0.4, np.float32), "c1q": np.full((2, 2), 0.8, np.float32)}
    assert compose(levels, ImCrops())[0, 0].tolist() == [0, 0, 153]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1]),
        (np.array([0, 13107, 65535], np.uint16), [0, 0.2, 1]),
        (np.array([-5, 32767], np.int16), [0, 1]),
        (np.array([-0.5, 0.25, 1.0], np.float32), [0, 0.25, 1]),
    ],
)
def test_brightness(samples: np.ndarray, expected: list[float]) -> None:
    assert brightness(samples, "a").tolist() == pytest.approx(expected)


def test_one_marker_is_shown_in_all_colours() -> None:
    levels = {"C3": np.full((2, 2), 0.4, np.float32), "IgG": np.full((2, 2), 0.8, np.float32)}
    assert compose(levels, ImCrops(markers=["IgG"]))[0, 0].tolist() == [204, 204, 204]


@pytest.mark.parametrize(
    ("settings", "colours"),
    [
        ({}, (("IgG",), ("IgA",), ("IgM", "C3", "C1q"))),
        ({"red": ["C3"], "blue": []}, (("C3",), ("IgA",), ())),
        ({"markers": ["IgG", "IgA", "IgM", "C3", "C1q"]}, (("IgG",), ("IgA",), ("IgM", "C3", "C1q"))),
        ({"markers": ["C3", "IgG"]}, (("C3",), ("IgG",), ())),
        ({"markers": ["C3"]}, (("C3",), ("C3",), ("C3",))),
    ],
)
def test_which_marker_has_which_colour(settings: dict[str, list[str]], colours: tuple[object, ...]) -> None:
    assert ImCrops(**settings).colours == colours
    assert ImCrops(**ImCrops(**settings).model_dump()).colours == colours


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"markers": ["IgG"], "blue": ["C3"]},
            "imaging.im.markers replaces red, green and blue; remove blue",
        ),
        ({"markers": ["IgG", "C3", "IgG"]}, "imaging.im.markers names IgG twice; keep one of them"),
        ({"markers": []}, "at least 1 item"),
    ],
)
def test_markers_that_contradict_themselves(settings: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImCrops(**settings)


def blobs(seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((200, 200)), 3)
    return np.clip(field / field.std() - 1, 0, 3) / 3


FIRST, SECOND = blobs(1), blobs(2)
NOTHING = np.zeros((200, 200))


@pytest.mark.parametrize(
    ("channels", "one"),
    [
        ((0.2 * FIRST, FIRST, 0.1 * FIRST), True),
        ((FIRST, NOTHING, NOTHING), True),
        ((0.15 * FIRST, 0.02 * FIRST, 0.01 * FIRST), True),
        ((FIRST, SECOND, NOTHING), False),
        ((FIRST, 0.3 * SECOND, NOTHING), False),
        ((FIRST, 0.9 * FIRST, NOTHING), False),
        ((FIRST, 0.9 * FIRST, 0.8 * FIRST), False),
        ((NOTHING, NOTHING, NOTHING), False),
    ],
    ids=["crosstalk", "pure", "faint", "two", "faint second", "yellow", "whitish", "nothing"],
)
def test_single_hues(channels: tuple[np.ndarray, ...], one: bool) -> None:
    generator = np.random.default_rng(3)
    noise = 0.03 + np.abs(generator.normal(0, 0.005, (200, 200, 3)))
    picture = np.clip(np.stack(channels, axis=2) + noise, 0, 1).astype(np.float32)
    assert has_one_hue(picture) is one


def test_grey_throughout_is_one_channel() -> None:
    assert has_one_hue(np.repeat(FIRST[:, :, None], 3, axis=2).astype(np.float32))


def test_a_flat_picture_shows_no_hue() -> None:
    assert not has_one_hue(np.full((64, 64, 3), (0.1, 0.9, 0.1), np.float32))
