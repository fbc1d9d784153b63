"""Ready-made crops of two sites, each held out in turn."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glomflow.files import read_json
from workflow.conftest import Project, copy_project

pytestmark = pytest.mark.workflow

SETTINGS = """
run: {tracks: [glomeruli], shards: 1}
cohort: {source: crops, folder: crops, classes: [pale, dark]}
imaging: {om: {size: 64}, stain: {method: none}}
few_shot:
  shots: [0, 1, 2]
  runs: 2
  protocol: leave_one_site_out
  draws: pool
  nested: false
  methods: [colour_texture]
evaluation: {bootstrap: 100}
"""


def write_crops(folder) -> None:
    """16 slides of two classes and two sites; the west stains darker."""
    rng = np.random.default_rng(0)
    rows = []
    folder.mkdir()
    for slide in range(8):
        site = "east" if slide < 4 else "west"
        for label, level in (("pale", 200), ("dark", 110)):
            for number in range(2):
                name = f"{slide}_{label}_{number}.png"
                pixels = rng.normal(level - 20 * (site == "west"), 12, (64, 64, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                rows.append((name, label, f"S{slide}", site if number == 0 else ""))
    pd.DataFrame(rows, columns=["image", "label", "slide", "site"]).to_csv(folder / "labels.csv", index=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    folder = copy_project(tmp_path_factory.mktemp("sites") / "glomflow")
    write_crops(folder / "crops")
    (folder / "sites.yaml").write_text(SETTINGS, encoding="utf-8")
    project = Project(folder, ["sites.yaml"])
    project.snakemake()
    return project


def test_sites_reach_the_tables_and_the_report(project) -> None:
    results = project.folder / "results"
    draws = pd.read_parquet(results / "few_shot/draws.parquet")
    assert draws.groupby("run")["split"].nunique().eq(2).all()
    test = draws[draws["split"] == "test"]
    assert test.groupby("run")["site"].first().tolist() == ["east", "west"] * 2
    assert test.groupby("crop").size().unique().tolist() == [2]
    sites = pd.read_parquet(results / "few_shot/sites.parquet").set_index(["site", "shots", "metric"])
    assert sites.loc[("west", 2, "accuracy"), ["slides", "crops"]].tolist() == [4, 16]
    metrics = pd.read_parquet(results / "few_shot/metrics.parquet")
    assert sorted(metrics["shots"].unique()) == [1, 2]
    assert metrics["crops"].unique().tolist() == [32]
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "Each held-out site, at the largest number of shots" in page
    log = (results / "logs/few_shot.log").read_text(encoding="utf-8")
    assert "0 shots are left out" in log


def test_disjoint_samples_of_runs_are_drawn_and_told_of(project) -> None:
    """The pool of a class is 8 crops at each site: two runs of 1 + 2 shots."""
    draws = pd.read_parquet(project.folder / "results/few_shot/draws.parquet")
    shown = draws[draws["shots"] != ""]
    turn = shown["run"] // 2
    for site in (0, 1):
        own = shown[shown["run"] % 2 == site]
        assert len(own) == 2 * 2 * 3
        assert not own.duplicated("crop").any()
    assert set(turn) == {0, 1}
    assert read_json(project.folder / "results/few_shot/draws.json")["remarks"] == []


def test_missing_sites_stop_the_draw_with_advice(project) -> None:
    labels = project.folder / "crops/labels.csv"
    sheet = pd.read_csv(labels)
    sheet.drop(columns="site").to_csv(labels, index=False)
    done = project.snakemake("--", "results/few_shot/draws.parquet", check=False)
    assert done.returncode != 0
    assert "crop '0_dark_0#0' of patient 'S0' has no site (32 such)" in done.stdout
    assert "Traceback" not in done.stdout
