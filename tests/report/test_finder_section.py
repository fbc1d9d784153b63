"""The section on the glomerulus finder and its figures."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.config import Config, Evaluation
from glomflow.evaluation.detection import FieldDetections
from glomflow.evaluation.detection_summary import FINDER_FILES, finder_summary
from glomflow.report.blocks import KeyFigures, Picture, PictureRow, Prose, Table
from glomflow.report.examples_finder import outline_examples, shown_fields, window
from glomflow.report.figures_finder import finder_counts, finder_precision_recall, outline_panels
from glomflow.report.gallery import draw_figure
from glomflow.report.job_inputs import inputs_from_files
from glomflow.report.material import Material, ReportInputs
from glomflow.report.numbers import NBSP
from glomflow.report.page import sections
from glomflow.report.sections_finder import finder_blocks, finder_section
from glomflow.report.style import save_figure
from glomflow.tables import INVENTORY, write_table


def disc(x, y, radius=12.0):
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


PLACES = [(40.0, 40.0), (100.0, 40.0), (160.0, 40.0), (40.0, 100.0)]


def searched(slides=4):
    """Slide n misses n of its four glomeruli and finds one too many from slide 2 on."""
    fields = []
    for number in range(slides):
        found = [disc(*place) for place in PLACES[number:]] + [disc(160, 100)] * (number >= 2)
        fields.append(
            FieldDetections(
                image=f"field{number}",
                patient=f"p{number}",
                slide=f"s{number}",
                fold=str(number % 2),
                width=200,
                height=140,
                um_per_px=1.0,
                annotated=[disc(*place) for place in PLACES],
                found=found,
                scores=[0.95 - 0.05 * place for place in range(len(found))],
            )
        )
    return fields


def summarised(fields, **options):
    rows = [{"fold": f.fold, "image": f.image, "split": "test"} for f in fields]
    folds = pd.DataFrame(rows, columns=["fold", "image", "split"])
    return finder_summary(fields, folds, Evaluation(bootstrap=200), seed=1, **options)


@pytest.fixture(scope="module")
def summary():
    return summarised(searched())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A cohort folder with an image per field, and the inventory of these."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).integers(120, 255, (140, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"field{number}.png")
        rows.append({"image": f"field{number}", "path": f"field{number}.png", "um_per_px": 1.0})
    return folder, pd.DataFrame(rows)


def section_of(summary, **pictures):
    return finder_blocks(summary, f"95{NBSP}%", **{"outlines": [], "curves": [], **pictures})


def texts(section):
    said = " ".join(block.text for block in section.blocks if isinstance(block, Prose))
    return said.replace(NBSP, " ")


def tables_of(section):
    return {block.caption: block for block in section.blocks if isinstance(block, Table)}


def test_the_numbers_to_see_first(summary):
    shown = {name: (value.replace(NBSP, " "), note.replace(NBSP, " ")) for name, value, note in key(summary)}
    assert shown["Found"] == ("62 %", "of 16 glomeruli")
    assert shown["Counted per slide"][0] == "−1.0"
    assert shown["Average precision"][1].startswith("IoU ≥ 0.5; 95 % interval ")


def key(summary):
    return next(block for block in section_of(summary).blocks if isinstance(block, KeyFigures)).items


def test_the_words_say_what_was_found_and_on_what(summary):
    said = texts(section_of(summary))
    assert "Each of 4 fields of 4 slides was searched by a finder that had seen neither" in said
    assert "Of 16 annotated glomeruli 62 % were found (95 % interval " in said
    assert "of what was found 83 % was a glomerulus" in said
    assert "that the border of the image cuts count as any other" in said
    assert "The intervals rest on 4 patients and are too narrow." in said


def test_glomeruli_that_do_not_count_are_said_not_to():
    said = texts(section_of(summarised(searched(), border="ignore")))
    assert "that the border of the image cuts do not count" in said


def test_one_slide_has_no_interval_and_says_so():
    section = section_of(summarised(searched(slides=1)))
    said = texts(section)
    assert "nothing can be said of other patients" in said
    assert "interval" not in said
    assert "Fold by fold." not in tables_of(section)
    assert key(summarised(searched(slides=1)))[1][2] == "IoU ≥ 0.5; too few slides for an interval"


def test_the_page_has_the_section_only_where_a_finder_was_evaluated(summary, cohort, tmp_path):
    folder, inventory = cohort
    summary.write(tmp_path / "finder")
    write_table(tmp_path / "inventory.parquet", whole_inventory(inventory), INVENTORY)
    config = Config()
    inputs = inputs_from_files(
        {
            "inventory": str(tmp_path / "inventory.parquet"),
            "finder": [str(tmp_path / "finder" / name) for name in FINDER_FILES],
        },
        cohort_folder=folder,
    )
    names = ("finder_outlines", "finder_precision_recall", "finder_counts")
    paths = [tmp_path / f"{name}{'.png' if name == names[0] else '.svg'}" for name in names]
    for name, path in zip(names, paths, strict=True):
        save_figure(draw_figure(name, inputs, config), path)
    drawn = dataclasses.replace(inputs, figures=dict(zip(names, paths, strict=True)))
    section = finder_section(Material(drawn, config))
    assert section.title == "Glomerulus finder"
    assert [block.kind for block in section.blocks][:4] == ["key_figures", "prose", "picture", "picture_row"]
    assert [each.key for each in sections(drawn, config)].count("finder") == 1
    assert finder_section(Material(ReportInputs(), config)) is None


def whole_inventory(frame):
    filled = {name: 0 if column.dtype == "int64" else None for name, column in INVENTORY.items()}
    return frame.assign(
        **{name: value for name, value in filled.items() if name not in frame.columns} | {"status": "ok"}
    )[list(INVENTORY)]


def test_every_metric_has_a_row(summary):
    tables = tables_of(section_of(summary))
    rows = dict(tables["Test fields of all folds together, with intervals over slides and patients."].rows)
    assert len(rows) == 13
    assert rows["recall, IoU ≥ 0.5"].startswith("0.62")
    assert rows["found less annotated, mean per slide"].startswith("−1.0")


def test_folds_and_mistakes_are_listed(summary):
    tables = tables_of(section_of(summary))
    folds = tables["Fold by fold."].rows
    assert [row[:5] for row in folds] == [("0", "2", "2", "8", "7"), ("1", "2", "2", "8", "5")]
    mistakes = tables["Fields with most mistakes."].rows
    assert [row[0] for row in mistakes] == ["field3", "field2", "field1"]
    assert mistakes[0][1:5] == ("4", "2", "3", "1")


def test_a_finder_without_mistakes_has_no_table_of_them():
    fields = [dataclasses.replace(f, found=f.annotated, scores=[0.9] * 4) for f in searched()]
    assert "Fields with most mistakes." not in tables_of(section_of(summarised(fields)))


def test_pictures_take_their_places(summary):
    picture = Picture("data:,", "alt", "caption", 10, 10)
    blocks = section_of(summary, outlines=[picture], curves=[picture, picture]).blocks
    kinds = [block.kind for block in blocks]
    assert kinds[:4] == ["key_figures", "prose", "picture", "picture_row"]
    row = next(block for block in blocks if isinstance(block, PictureRow))
    assert len(row.pictures) == 2


def test_the_fields_shown_are_the_best_the_middle_and_the_worst(summary):
    assert shown_fields(summary.fields) == [("best", "field0"), ("median", "field2"), ("worst", "field3")]
    assert shown_fields(summary.fields.head(1)) == [("best", "field0")]
    assert shown_fields(summary.fields.assign(dice=np.nan)) == []


def test_outlines_are_laid_over_their_fields(summary, cohort):
    folder, inventory = cohort
    panels = outline_examples(summary, inventory, folder)
    assert [panel.title for panel in panels] == ["Best field", "Median field", "Worst field"]
    worst = panels[2]
    assert worst.image.shape == (140, 200, 3)
    assert sorted((each.kind, each.outcome) for each in worst.outlines) == [
        ("annotated", "hit"),
        ("annotated", "missed"),
        ("annotated", "missed"),
        ("annotated", "missed"),
        ("found", "hit"),
        ("found", "wrong"),
    ]
    assert worst.caption.replace(NBSP, " ").endswith("4 annotated, 2 found, 1 of them right; Dice 0.33")
    assert worst.outlines[0].points[0].tolist() == [52.0, 40.0]


def test_of_a_large_image_the_densest_part_is_shown():
    outlines = [disc(500, 500), disc(30000, 20000), disc(30400, 20100), disc(59990, 39990)]
    assert window(outlines, (60000, 40000), 0.5) == pytest.approx((27500, 17500, 5000, 5000))
    assert window([disc(59990, 39990)], (60000, 40000), 0.5) == pytest.approx((55000, 35000, 5000, 5000))
    assert window(outlines, (4000, 3000), 0.5) == (0.0, 0.0, 4000.0, 3000.0)


def test_figures_are_drawn_the_same_every_time(summary, cohort, tmp_path):
    folder, inventory = cohort
    for name in ("first", "again"):
        save_figure(outline_panels(outline_examples(summary, inventory, folder)), tmp_path / f"{name}.png")
        save_figure(finder_precision_recall(summary.curve, {0.5: 0.6}), tmp_path / f"{name}_curve.svg")
        save_figure(finder_counts(summary.counts), tmp_path / f"{name}_counts.svg")
    for suffix in (".png", "_curve.svg", "_counts.svg"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
    with Image.open(tmp_path / "first.png") as picture:
        assert picture.size[0] == 1170


def test_outlines_are_drawn_in_the_colours_of_their_outcome(summary, cohort):
    folder, inventory = cohort
    figure = outline_panels(outline_examples(summary, inventory, folder))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["annotated and found", "annotated, missed", "found", "found, not annotated"]
    # Every outline twice: once white beneath, once in colour.
    assert [len(axes.patches) for axes in figure.axes] == [16, 2 * (4 + 3), 12]


def test_the_curve_has_the_area_in_its_legend(summary):
    figure = finder_precision_recall(summary.curve, {0.5: 0.6})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["IoU ≥ 0.5   AP 0.60", "IoU ≥ 0.75"]


def test_counts_have_a_point_per_pair_of_numbers(summary):
    axes = finder_counts(summary.counts).axes[0]
    points = axes.collections[0].get_offsets().tolist()
    assert points == [[4.0, 2.0], [4.0, 3.0], [4.0, 4.0]]


def test_figures_of_a_finder_that_found_nothing():
    fields = [dataclasses.replace(f, found=[], scores=[]) for f in searched()]
    summary = summarised(fields)
    assert summary.curve.empty
    assert len(finder_precision_recall(summary.curve).axes) == 1
    assert finder_counts(summary.counts).axes[0].get_xlim()[1] == pytest.approx(4.24)
    said = texts(section_of(summary))
    assert "0 % were found" in said
    assert said.count("nothing else was.") == 1


def test_figures_of_a_finder_that_nothing_was_annotated_for(tmp_path, cohort):
    empty = summarised([])
    folder, inventory = cohort
    assert outline_examples(empty, inventory, folder) == []
    for name, figure in (
        ("outlines", outline_panels([])),
        ("curve", finder_precision_recall(empty.curve)),
        ("counts", finder_counts(empty.counts)),
    ):
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 0
