"""Nearest names."""

import pytest

from glomflow.suggest import did_you_mean, nearest, nearest_numbered


@pytest.mark.parametrize(
    ("word", "names", "expected"),
    [
        ("methd", ["target", "method"], "method"),
        ("TEM", ["tem", "TEMs"], "tem"),
        ("batch-size", ["batch", "batch_size"], "batch_size"),
        ("7", ["17", "007"], "007"),
        ("0", ["00", "1"], "00"),
        ("Mu\u0308ller", ["Muller", "M\u00fcller"], "M\u00fcller"),
        ("xyz", ["method"], None),
        ("xyz", [], None),
    ],
)
def test_nearest(word, names, expected):
    assert nearest(word, names) == expected


def test_numbers_are_never_taken_for_one_another():
    assert nearest("image_3.tif", ["image_4.tif"]) == "image_4.tif"
    assert nearest_numbered("image_3.tif", ["image_4.tif"]) is None
    assert nearest_numbered("imag_3.tif", ["image_4.tif", "image_03.tif"]) == "image_03.tif"


def test_did_you_mean():
    assert did_you_mean("methd", ["method"]) == "; did you mean 'method'?"
    assert did_you_mean("xyz", ["method"]) == ""
