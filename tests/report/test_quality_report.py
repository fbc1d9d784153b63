"""Image quality in the report: counts of flags and the sheet of the worst images."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Config
from glomflow.config_quality import Quality
from glomflow.errors import GlomflowError
from glomflow.imaging.quality.flags import RULES
from glomflow.report.examples_quality import worst_images
from glomflow.report.material import Material, ReportInputs
from glomflow.report.quality import FLAGS, flags_table
from glomflow.report.sections_data import quality_section
from glomflow.tables import INVENTORY


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t").mkdir()
    for value in range(8):
        Image.fromarray(np.full((10, 20), value, np.uint8)).save(tmp_path / "t" / f"{value}.png")
    return tmp_path


def inventory(*rows):
    empty = {"string": "", "int64": 0, "float64": math.nan}
    base = {column: empty[spec.dtype] for column, spec in INVENTORY.items()}
    return pd.DataFrame(
        [
            base
            | {"image": f"i{n}", "patient": f"P{n}", "modality": "OM", "status": "ok"}
            | {"thumbnail": f"t/{n}.png", "focus": 0.05 + n / 1000}
            | row
            for n, row in enumerate(rows)
        ]
    )


ROWS = (
    {"pen_fraction": 0.03, "quality": "pen"},
    {"pen_fraction": 0.2, "focus": 0.001, "quality": "blurred;pen", "status": "poor_quality"},
    {"modality": "TEM", "drift": 0.25, "quality": "drift"},
    {"modality": "TEM", "focus": 0.0012, "quality": "blurred"},
    {},
    {"modality": "IM", "signal_to_noise": 1.2, "focus": math.nan, "quality": "underexposed"},
    {"status": "unreadable", "thumbnail": "", "quality": "pen"},
    {"focus": 0.01},
)


def test_every_flag_has_words():
    assert list(FLAGS) == [rule.flag for rule in RULES]


def test_flags_are_counted_by_modality():
    table = flags_table(inventory(*ROWS), Quality(exclude=["pen"]))
    assert table.headers == ("flag", "OM", "OM if", "IM", "IM if", "TEM", "TEM if", "such images are")
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["blurred"] == ("1", "<\xa00.003", "0", "<\xa00.0005", "1", "<\xa00.002", "kept")
    assert cells["pen marks"] == ("2", ">\xa00.2\xa0%", "–", "–", "–", "–", "left out")
    assert cells["drift"] == ("–", "–", "–", "–", "1", ">\xa00.1", "kept")
    assert cells["underexposed, or a negative marker"][2:4] == ("1", "<\xa05")
    assert table.caption == "Images flagged as poor, of 7 judged, by modality."
    assert table.note.startswith("1 left out for their quality.")


def test_flags_of_absent_modalities_are_not_listed():
    table = flags_table(inventory({}), Quality())
    assert [row[0] for row in table.rows] == ["blurred", "little tissue", "saturated", "pen marks", "folds"]


def test_the_worst_come_first_with_their_value(folder):
    groups = worst_images(inventory(*ROWS), folder, Quality(), 6)
    assert {name: [tile.caption for tile in tiles] for name, tiles in groups.items()} == {
        "blurred: 2 images": ["P1 · OM, left out\nfocus 0.001", "P3 · TEM\nfocus 0.0012"],
        "pen marks: 2 images": ["P1 · OM, left out\npen marks 20.0\xa0%", "P0 · OM\npen marks 3.0\xa0%"],
        "underexposed, or a negative marker: 1 image": ["P5 · IM\nsignal to noise 1.2"],
        "drift: 1 image": ["P2 · TEM\ndrift 0.25"],
        "OM without a flag: the least sharp": ["P7 · OM\nfocus 0.01", "P4 · OM\nfocus 0.054"],
    }
    assert groups["drift: 1 image"][0].image[0, 0] == 2


def test_only_the_worst_are_shown_of_many(folder):
    groups = worst_images(inventory(*ROWS), folder, Quality(), 1)
    assert [tile.caption for tile in groups["pen marks: the worst 1 of 2 images"]] == [
        "P1 · OM, left out\npen marks 20.0\xa0%"
    ]


def test_a_missing_thumbnail_is_named(tmp_path):
    with pytest.raises(GlomflowError, match=r"t/0\.png is missing; run the step that writes it again"):
        worst_images(inventory({}), tmp_path, Quality(), 1)


def test_the_section_counts_flags(made_up_run):
    material = Material(ReportInputs(inventory=made_up_run.inputs.inventory), Config())
    section = quality_section(material)
    assert section is not None
    rows = {row[0]: row[1] for row in section.blocks[1].rows}
    assert (rows["pen marks"], rows["blurred"], rows["folds"]) == ("2", "1", "0")
