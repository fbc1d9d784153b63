"""The phantom cohort's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from glomflow.cohort.phantom import PhantomPlan, plan_phantom, write_phantom_images, write_phantom_sheets
from glomflow.cohort.phantom.captions import LESIONS
from glomflow.cohort.phantom.sites import site_named
from glomflow.config import Phantom
from glomflow.errors import GlomflowError
from glomflow.files import read_json

SETTINGS = Phantom(
    patients=6, glomeruli=(2, 2), tem_images=(3, 3), missing_modality=1, damaged_files=3, seed=3
)


@pytest.fixture(scope="module")
def plan() -> PhantomPlan:
    return plan_phantom(SETTINGS)


@pytest.fixture(scope="module")
def folder(plan: PhantomPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom_sheets(plan, folder)
    written = write_phantom_images(plan, folder, [p.patient for p in plan.patients])
    assert sorted(written) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*/*") if path.is_file()
    )
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_sheets(plan: PhantomPlan, folder: Path) -> None:
    patients = rows(folder / "patients.csv")
    assert list(patients[0]) == ["patient", "label", "site", "stage"]
    assert [row["patient"] for row in patients] == [p.patient for p in plan.patients]
    assert all(bool(row["stage"]) == (row["label"] == "MN") for row in patients)
    images = rows(folder / "images.csv")
    assert list(images[0]) == [
        "patient", "modality", "path", "slide", "stain", "marker", "um_per_px", "nm_per_px", "annotation",
        "kind", "lesion",
    ]  # fmt: skip
    assert {row["modality"] for row in images} == {"OM", "IM", "TEM"}
    for row in images:
        assert (folder / row["path"]).is_file()
        assert row["kind"] == "field"
        assert (row["modality"] == "OM") == bool(row["annotation"])
        assert row["stain"] == ("PAS" if row["modality"] == "OM" else "")
        assert row["um_per_px"] == row["nm_per_px"] == ""


def test_sheets_pass_the_cohort_check(folder: Path) -> None:
    from glomflow.cohort.sheets import read_cohort

    patients, images = read_cohort(
        folder, "patients.csv", "images.csv", classes=["IgAN", "MN", "LN"], n_splits=2, shards=2
    )
    assert len(patients) == 6
    assert len(images) == len(rows(folder / "images.csv"))


def test_captions_match_the_outlines(plan: PhantomPlan, folder: Path) -> None:
    captions = {row["glomerulus"]: row for row in rows(folder / "captions.csv")}
    assert list(next(iter(captions.values()))) == ["glomerulus", "patient", "lesion", "caption"]
    outlined = {}
    for path in sorted((folder / "OM").glob("*.geojson")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["type"] == "FeatureCollection"
        for feature in content["features"]:
            ring = feature["geometry"]["coordinates"][0]
            assert feature["geometry"]["type"] == "Polygon"
            assert ring[0] == ring[-1]
            assert feature["properties"]["objectType"] == "annotation"
            outlined[feature["properties"]["name"]] = feature["properties"]["classification"]["name"]
    assert outlined == {name: row["lesion"] for name, row in captions.items()}
    assert set(outlined.values()) <= set(LESIONS)
    assert len(outlined) == 2 * sum("OM" not in p.missing for p in plan.patients)


def test_truth(plan: PhantomPlan, folder: Path) -> None:
    truth = read_json(folder / "phantom.json")
    assert list(truth) == [
        "seed", "settings", "ceilings", "realised_ceilings", "patients", "tem_images", "damaged"
    ]  # fmt: skip
    assert truth["seed"] == 3
    assert truth["settings"]["tem_images"] == [3, 3]
    assert truth["ceilings"]["OM+IM+TEM"] == pytest.approx(0.99)
    assert set(truth["realised_ceilings"]) == set(truth["ceilings"])
    assert truth["damaged"] == plan.damaged
    for patient in plan.patients:
        entry = truth["patients"][patient.patient]
        assert (entry["label"], entry["site"]) == (patient.label, patient.site)
        assert entry["missing"] == list(patient.missing)
        assert set(entry["appearance"]) == {"OM", "IM", "TEM"}
        for micrograph in patient.micrographs:
            expected = {"deposits": micrograph.deposits, "mask": micrograph.mask}
            assert truth["tem_images"][micrograph.path] == expected


def test_field_is_a_tiled_pyramid_with_pixel_size(plan: PhantomPlan, folder: Path) -> None:
    patient = next(p for p in plan.patients if p.om_path)
    with tifffile.TiffFile(folder / str(patient.om_path)) as file:
        page = file.pages[0]
        assert page.is_tiled
        assert page.dtype == np.uint8
        assert len(file.series[0].levels) == 3
        assert file.series[0].levels[1].shape == (page.shape[0] // 2, page.shape[1] // 2, 3)
        assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        numerator, denominator = page.tags["XResolution"].value
        assert 1e4 * denominator / numerator == pytest.approx(site_named(patient.site).om_um_per_px, rel=1e-6)


def test_immunofluorescence_is_ome(plan: PhantomPlan, folder: Path) -> None:
    patient = next(p for p in plan.patients if p.im_path and p.im_path not in plan.damaged)
    with tifffile.TiffFile(folder / str(patient.im_path)) as file:
        assert file.is_ome
        assert file.series[0].axes == "CYX"
        assert file.asarray().shape == (5, 448, 448)
        xml = str(file.ome_metadata)
    names = [xml.index(f'Name="{marker}"') for marker in ("IgG", "IgA", "IgM", "C3", "C1q")]
    assert names == sorted(names)
    assert f'PhysicalSizeX="{site_named(patient.site).im_um_per_px}"' in xml


def test_micrographs_and_masks(plan: PhantomPlan, folder: Path) -> None:
    for patient in plan.patients:
        site = site_named(patient.site)
        for micrograph in patient.micrographs:
            if micrograph.path in plan.damaged:
                continue
            with tifffile.TiffFile(folder / micrograph.path) as file:
                page = file.pages[0]
                image = page.asarray()
                numerator, denominator = page.tags["XResolution"].value
            assert image.dtype == np.uint16
            assert 1e7 * denominator / numerator == pytest.approx(site.tem_nm_per_px, rel=1e-6)
            if micrograph.mask:
                mask = np.asarray(Image.open(folder / micrograph.mask))
                assert mask.dtype == np.uint8
                assert mask.shape == image.shape
                assert set(np.unique(mask)) == {0, 255}


def test_damaged_files(plan: PhantomPlan, folder: Path) -> None:
    ways = {how: folder / path for path, how in plan.damaged.items()}
    assert ways["empty"].stat().st_size == 0
    assert ways["text"].read_bytes().startswith(b"This file should have been an image")
    with pytest.raises(Exception, match=r".+"):
        tifffile.imread(ways["truncated"])
    with pytest.raises(tifffile.TiffFileError):
        tifffile.imread(ways["text"])


def test_bytes_depend_on_settings_and_patient_only(plan: PhantomPlan, folder: Path, tmp_path: Path) -> None:
    chosen = [plan.patients[4].patient, plan.patients[1].patient]
    written = write_phantom_images(plan, tmp_path, chosen)
    assert written
    for path in written:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()
    write_phantom_sheets(plan_phantom(SETTINGS), tmp_path)
    for name in ("patients.csv", "images.csv", "captions.csv", "phantom.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_no_date_and_no_software_in_the_tags(plan: PhantomPlan, folder: Path) -> None:
    for path in folder.rglob("*.tif"):
        if str(path.relative_to(folder)) in plan.damaged:
            continue
        with tifffile.TiffFile(path) as file:
            assert not {"DateTime", "Software"} & {tag.name for tag in file.pages[0].tags}


def test_unknown_patient(plan: PhantomPlan, tmp_path: Path) -> None:
    with pytest.raises(GlomflowError) as caught:
        write_phantom_images(plan, tmp_path, ["P001", "X9"])
    assert str(caught.value) == (
        "the phantom cohort has no patient X9; it has P001 to P006 (phantom.patients: 6)"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_does_not_name_the_outlines_of_bare_fields(tmp_path: Path) -> None:
    plan = plan_phantom(SETTINGS.model_copy(update={"bare_fields": 6}))
    patient = next(p for p in plan.patients if p.om_path)
    write_phantom_sheets(plan, tmp_path)
    write_phantom_images(plan, tmp_path, [patient.patient])
    fields = [row for row in rows(tmp_path / "images.csv") if row["modality"] == "OM"]
    assert fields
    assert {row["annotation"] for row in fields} == {""}
    assert (tmp_path / f"truth/OM/{patient.patient}.geojson").is_file()
