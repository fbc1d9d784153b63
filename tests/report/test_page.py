"""The page: whole, self-contained, honest about what it has."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml

from glomflow.config import Config
from glomflow.errors import GlomflowError
from glomflow.report.figures_images import Tile, contact_sheet
from glomflow.report.numbers import NBSP
from glomflow.report.page import ReportInputs, build_report, sections
from glomflow.report.style import save_figure
from glomflow.tables import INVENTORY, PATIENTS, write_table

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checker(HTMLParser):
    """Collects text, references and anchors, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def values(self, *names: str) -> list[str]:
        return [str(value) for _, attrs in self.tags for name, value in attrs.items() if name in names]


def parse(path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def said(checker: Checker) -> str:
    return " ".join(" ".join(checker.text).split()).replace(NBSP, " ")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    noise = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    save_figure(contact_sheet({"MN": [Tile(noise, "P1")] * 12}), folder / "crops_om.png")
    save_figure(contact_sheet({"MN": [Tile(noise[:8, :8], "P1")]}), folder / "crops_im.png", dpi=40)
    save_figure(contact_sheet({"MN": [Tile(noise[:8, :8], "P1")]}), folder / "ablation.svg")
    return {path.stem: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def full(made_up_run, figures, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    build_report(dataclasses.replace(made_up_run.inputs, figures=figures), made_up_run.config, out)
    return out


@pytest.fixture(scope="module")
def page(full):
    return parse(full)


def test_nothing_is_fetched(page):
    for value in page.values("src", "href", "srcset", "data", "action", "poster"):
        assert value.startswith(("data:", "#"))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}


def test_style_fetches_nothing_and_images_may_not_either(full):
    text = full.read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_every_anchor_of_the_contents_exists_once(page):
    ids = page.values("id")
    links = [value[1:] for value in page.values("href")]
    assert len(set(ids)) == len(ids)
    assert links == ids
    assert links[:3] == ["summary", "glomeruli-summary", "cohort"]


def test_every_image_has_a_size_and_an_alternative_text(page):
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3
    for attrs in images:
        assert attrs["alt"]
        assert int(attrs["width"]) > 50
        assert int(attrs["height"]) > 20
        assert attrs["src"].startswith("data:image/")


def test_large_micrographs_are_packed_and_the_page_is_small(full, page, figures):
    kinds = [value.split(";")[0] for value in page.values("src")]
    assert sorted(kinds) == ["data:image/png", "data:image/svg+xml", "data:image/webp"]
    assert full.stat().st_size < figures["crops_om"].stat().st_size


def test_the_summary_has_numbers_with_intervals(page):
    text = said(page)
    assert (
        "The model cmus_net (OM + IM + TEM) classified 86 % of 59 patients correctly as IgAN, MN or LN"
        in text
    )
    assert "(95 % interval 76–93 %)" in text
    assert "a perfect reader of the same modalities would be right in 99 %" in text
    assert "The best model of a single modality, im (IM), reached 83 %" in text
    assert "These patients do not tell the two apart." in text
    assert "Of 532 images, 7 were left out (5 blank, 1 file missing and 1 unreadable)." in text
    assert "1 patient without a usable image takes no part." in text
    assert (
        "With 8 labelled glomeruli per class, a linear probe on features of tf_efficientnet_lite0 told"
        in text
    )
    assert "Logistic regression on colour and texture reached 99 %: a difference of" in text


def test_a_phantom_is_called_one(page):
    assert "The images were drawn by a program, not taken from patients" in said(page)


def test_tables_hold_cohort_folds_results_and_reasons(page):
    text = said(page)
    for expected in (
        "all 21 21 18 60",
        "OM/P004_0.tif file missing OM/P004_0.tif: there is no such file; correct the path",
        "P017 no usable image: 5 blank",
        "13 / 13 / 12 38 3 / 3 / 3 9 4 / 4 / 4 12",
        "mean ± SD 0.86 ± 0.09",
        "0.86 (0.76–0.93)",
        "at north 21",
        "P003-OM 40 too few tissue pixels",
        "heaviest instance shows a deposit 52 22 % (14–30) 33 % −11 (−19 to −3) points",
        "it drops deposit instances more often than others, although they are what matters",
        "adds up instances with equal weight (SMIL sum): none stands out",
        "1 without OM",
    ):
        assert expected in text


def test_provenance_names_software_digests_and_configuration(page, made_up_run):
    text = said(page)
    assert "d" * 64 in text
    assert "numpy" in text
    assert np.__version__ in text
    assert "Revision of the workflow: 0123abc." in text
    listing = max(page.text, key=len)
    assert Config(**yaml.safe_load(listing)) == made_up_run.config


def test_the_same_inputs_give_the_same_page(full, made_up_run, figures, tmp_path):
    build_report(
        dataclasses.replace(made_up_run.inputs, figures=figures), made_up_run.config, tmp_path / "again.html"
    )
    assert (tmp_path / "again.html").read_bytes() == full.read_bytes()


def keys(inputs, config) -> list[str]:
    return [section.key for section in sections(inputs, config)]


def test_no_inputs_leave_methods_and_provenance():
    assert keys(ReportInputs(), Config()) == ["methods", "provenance"]


ALWAYS = ["methods", "provenance"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["patients", "inventory"], ["cohort", "quality"]),
        (["patients"], []),
        (["stain_profiles"], ["stain"]),
        (["om_store"], ["crops"]),
        (["patients", "folds"], ["folds"]),
        (["histories"], ["training"]),
        (["summary_dir"], ["summary", "results", "ablation"]),
        (["deposit_hits"], ["instances"]),
        (["few_shot_dir"], ["glomeruli-summary", "few-shot"]),
    ],
)
def test_sections_appear_only_where_their_inputs_are(made_up_run, fields, expected):
    inputs = ReportInputs(**{name: getattr(made_up_run.inputs, name) for name in fields})
    assert keys(inputs, made_up_run.config) == [*expected, *ALWAYS]


def test_a_figure_alone_brings_its_section(made_up_run, figures):
    inputs = ReportInputs(figures={"crops_om": figures["crops_om"]})
    assert keys(inputs, made_up_run.config) == ["crops", *ALWAYS]


def test_the_glomerulus_track_alone(made_up_run, crops_config, tmp_path):
    whole = made_up_run.inputs
    inputs = ReportInputs(
        patients=whole.patients,
        inventory=whole.inventory,
        stain_profiles=whole.stain_profiles,
        om_store=whole.om_store,
        few_shot_dir=whole.few_shot_dir,
    )
    build_report(inputs, crops_config, tmp_path / "report.html")
    text = said(parse(tmp_path / "report.html"))
    assert "told global sclerosis, normal and segmental sclerosis apart" in text
    assert "global sclerosis normal segmental sclerosis all" in text
    assert "drawn by a program" not in text
    assert "ready-made crops, scaled to 224 px" in text


def test_names_are_escaped(made_up_run, tmp_path):
    patients = made_up_run.patients.copy()
    inventory = made_up_run.inventory.copy()
    evil = "<script>alert('P')</script>"
    for frame in (patients, inventory):
        frame["patient"] = frame["patient"].replace("P017", evil)
    inventory["reason"] = inventory["reason"].replace({"the image is empty; scan it again": "<b>&</b>"})
    write_table(tmp_path / "patients.parquet", patients, PATIENTS)
    write_table(tmp_path / "inventory.parquet", inventory, INVENTORY)
    inputs = ReportInputs(patients=tmp_path / "patients.parquet", inventory=tmp_path / "inventory.parquet")
    config = made_up_run.config.model_copy(
        update={"report": made_up_run.config.report.model_copy(update={"title": "A <i>title</i> & more"})}
    )
    build_report(inputs, config, tmp_path / "report.html")
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    assert "&lt;script&gt;" in raw
    page = parse(tmp_path / "report.html")
    assert "i" not in {tag for tag, _ in page.tags}
    assert evil in said(page)
    assert "<b>&</b>" in said(page)
    assert "A <i>title</i> & more" in said(page)


def test_an_unknown_figure_is_refused(made_up_run, figures):
    inputs = ReportInputs(figures={"crops_om": figures["crops_om"], "crop_om": figures["crops_om"]})
    with pytest.raises(GlomflowError, match=r"there is no figure 'crop_om'; known are ablation, "):
        sections(inputs, made_up_run.config)


def test_a_missing_figure_is_named(made_up_run, tmp_path):
    inputs = ReportInputs(figures={"crops_om": tmp_path / "crops_om.png"})
    with pytest.raises(GlomflowError, match=r"figure .*crops_om\.png is missing; make the figures again"):
        sections(inputs, made_up_run.config)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("crops_om.jpg", b"x", r"figure .*crops_om\.jpg is neither \.svg nor \.png"),
        ("crops_om.svg", b"<svg></svg>", r"crops_om\.svg has no width and height; save it with save_figure"),
    ],
)
def test_a_foreign_figure_is_refused(made_up_run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GlomflowError, match=message):
        sections(ReportInputs(figures={"crops_om": tmp_path / name}), made_up_run.config)


def test_a_history_without_epochs_is_refused(made_up_run, tmp_path):
    pd.DataFrame({"train_loss": [1.0]}).to_parquet(tmp_path / "h.parquet")
    inputs = ReportInputs(histories=[("cmus_net", 0, 0, tmp_path / "h.parquet")])
    with pytest.raises(GlomflowError, match=r"h\.parquet: has no column 'epoch'; train this fold again"):
        sections(inputs, made_up_run.config)


def test_the_page_is_not_written_when_something_is_wrong(made_up_run, tmp_path):
    inputs = ReportInputs(figures={"crops_om": tmp_path / "crops_om.png"})
    with pytest.raises(GlomflowError, match="missing"):
        build_report(inputs, made_up_run.config, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
