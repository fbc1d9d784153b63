"""The inventory: statuses, reasons, pixel sizes, duplicates."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from glomflow.config import Ingest
from glomflow.config_quality import Quality
from glomflow.errors import CohortError, GlomflowError, ImageError
from glomflow.imaging.inventory import gather_inventory, ingest_shard, pixel_size_of, report_problems
from glomflow.tables import IMAGES, INVENTORY, read_table, write_table

TEXT = [column for column, spec in IMAGES.items() if spec.dtype == "string"]


def _images(*rows):
    frame = pd.DataFrame(
        [
            {"image": row["path"].replace("/", "__").rsplit(".", 1)[0], "patient": "P1", "modality": "OM"}
            | {"kind": "field", "um_per_px": math.nan, "nm_per_px": math.nan, "row": number, "shard": 3}
            | row
            for number, row in enumerate(rows, 2)
        ]
    )
    frame = frame.reindex(columns=list(IMAGES))
    return frame.astype(dict.fromkeys(TEXT, "str"))


def _write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, **{"metadata": None} | options)
    else:
        Image.fromarray(pixels).save(path, **options)


def _noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.fixture
def ingest(tmp_path):
    def run(*rows, settings=None, allow_anisotropic=False, quality=None):
        return ingest_shard(
            _images(*rows),
            tmp_path,
            Ingest(**{"thumbnail_px": 64} | (settings or {})),
            allow_anisotropic=allow_anisotropic,
            thumbnails=tmp_path / "inventory" / "thumbnails" / "3",
            shard=3,
            quality=Quality(**(quality or {})),
        )

    return run


OUTLINE = (
    '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": '
    "[[[32, 24], [96, 24], [96, 72], [32, 72], [32, 24]]]}}"
)
OM_TAGS = {"photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}


def test_good_images_of_all_modalities(tmp_path, ingest):
    om = np.full((96, 128, 3), 240, np.uint8)
    om[24:72, 32:96] = _noise((48, 64, 3)) // 2
    _write(tmp_path / "OM" / "a.tif", om, **OM_TAGS)
    (tmp_path / "a.geojson").write_text(OUTLINE)
    tifffile.imwrite(
        tmp_path / "b.ome.tif",
        _noise((2, 50, 60), np.uint16),
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "Channel": {"Name": ["IgG", "C3"]},
            "PhysicalSizeX": 0.3,
            "PhysicalSizeY": 0.3,
        },
    )
    _write(tmp_path / "c.png", _noise((80, 70)))
    table = ingest(
        {"path": "OM/a.tif", "annotation": "a.geojson", "slide": "S1"},
        {"path": "b.ome.tif", "modality": "IM"},
        {"path": "c.png", "modality": "TEM", "nm_per_px": 12.5},
    )
    assert table["status"].tolist() == ["ok"] * 3
    assert table["reason"].tolist() == [""] * 3
    assert table["reader"].tolist() == ["tiff", "tiff", "raster"]
    assert table[["width", "height"]].to_numpy().tolist() == [[128, 96], [60, 50], [70, 80]]
    assert table["channels"].tolist() == ["R;G;B", "IgG;C3", "gray"]
    assert table["dtype"].tolist() == ["uint8", "uint16", "uint8"]
    assert table["levels"].tolist() == [1, 1, 1]
    assert table["um_per_px"].tolist() == pytest.approx([0.5, 0.3, 0.0125])
    assert table["pixel_size_from"].tolist() == ["tags", "tags", "sheet"]
    assert table["slide"].tolist()[0] == "S1"
    assert table["shard"].tolist() == [3, 3, 3]
    data = (tmp_path / "OM" / "a.tif").read_bytes()
    assert table["sha256"][0] == hashlib.sha256(data).hexdigest()
    assert table["bytes"][0] == len(data)
    assert table["tissue_fraction"][0] == pytest.approx(0.25, abs=0.02)
    assert table["focus_um_per_px"].tolist() == pytest.approx([1.0, 1.0, 0.02])
    assert table["focus"][0] > 0
    assert table["pen_fraction"].isna().tolist() == [False, True, True]
    assert table["signal_to_noise"].isna().tolist() == [True, False, True]
    assert table["blank_fraction"].isna().tolist() == [True, True, False]
    assert table["thumbnail"].tolist() == [f"thumbnails/3/{name}.jpg" for name in ("OM__a", "b.ome", "c")]
    shown = [Image.open(tmp_path / "inventory" / path) for path in table["thumbnail"]]
    assert [image.mode for image in shown] == ["RGB", "RGB", "L"]
    assert [image.size for image in shown] == [(64, 48), (60, 50), (56, 64)]
    write_table(tmp_path / "t.parquet", table, INVENTORY)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", INVENTORY), table)


def test_the_same_images_give_the_same_rows_and_thumbnails(tmp_path, ingest):
    _write(tmp_path / "a.png", _noise((80, 70)))
    row = {"path": "a.png", "modality": "TEM", "nm_per_px": 10.0}
    first = ingest(row)
    data = (tmp_path / "inventory" / first["thumbnail"][0]).read_bytes()
    pd.testing.assert_frame_equal(ingest(row), first)
    assert (tmp_path / "inventory" / first["thumbnail"][0]).read_bytes() == data
    assert [path.name for path in (tmp_path / "inventory" / "thumbnails" / "3").iterdir()] == ["a.jpg"]


def test_a_shard_without_images(tmp_path, ingest):
    table = ingest_shard(
        _images({"path": "x"}).iloc[:0],
        tmp_path,
        Ingest(),
        allow_anisotropic=False,
        thumbnails=tmp_path / "inventory" / "thumbnails" / "0",
        shard=0,
    )
    assert list(table.columns) == list(INVENTORY)
    assert table.empty
    assert (tmp_path / "inventory" / "thumbnails" / "0").is_dir()
    write_table(tmp_path / "t.parquet", table, INVENTORY)
    assert gather_inventory([table]).empty


def _bad(table, status):
    assert table["status"].tolist() == [status]
    return table["reason"][0]


def test_missing_file(ingest):
    table = ingest({"path": "none.tif"})
    assert "none.tif: there is no such file; correct the path in images.csv" in _bad(table, "missing_file")
    assert (table["sha256"][0], table["bytes"][0], table["width"][0]) == ("", 0, 0)


def test_damaged_files_keep_their_digest(tmp_path, ingest):
    _write(tmp_path / "a.jpg", _noise((80, 70)))
    data = (tmp_path / "a.jpg").read_bytes()[:2000]
    (tmp_path / "a.jpg").write_bytes(data)
    table = ingest({"path": "a.jpg", "modality": "TEM", "nm_per_px": 1.0})
    reason = _bad(table, "unreadable")
    assert reason.startswith("a.jpg: cannot be read (")
    assert reason.endswith("the file is damaged or not an image: export it again")
    assert table["sha256"][0] == hashlib.sha256(data).hexdigest()
    assert (table["width"][0], table["thumbnail"][0]) == (70, "")


def test_empty_and_text_files(tmp_path, ingest):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.jpg").write_text("<html>")
    table = ingest({"path": "a.tif"}, {"path": "b.jpg"})
    assert table["status"].tolist() == ["unreadable", "unreadable"]
    assert "a.tif: cannot be read (it is empty)" in table["reason"][0]
    assert "b.jpg: cannot be read (its content is no image" in table["reason"][1]


def test_truncated_pyramids(tmp_path, ingest):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(_noise((512, 512, 3)), subifds=1, tile=(64, 64), photometric="rgb")
        writer.write(_noise((256, 256, 3)), subfiletype=1, tile=(64, 64), photometric="rgb")
    path.write_bytes(path.read_bytes()[:-5000])
    assert "truncated: it should hold" in _bad(ingest({"path": "a.tif"}), "unreadable")


def test_formats_that_are_not_handled(tmp_path, ingest):
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\n\0\0\0\0")
    reason = _bad(ingest({"path": "a.nd2"}), "unsupported_format")
    assert reason == "a.nd2: Nikon ND2 is not handled; export the image as OME-TIFF"


@pytest.mark.parametrize("value", [0, 255, 90])
def test_blank_images(tmp_path, ingest, value):
    _write(tmp_path / "a.png", np.full((40, 50, 3), value, np.uint8))
    table = ingest({"path": "a.png", "um_per_px": 0.5})
    expected = "a.png: every pixel has the same value; export the image again or remove its row"
    assert _bad(table, "blank") == expected
    assert table["width"][0] == 50


@pytest.mark.parametrize(
    ("modality", "column"), [("OM", "um_per_px"), ("IM", "um_per_px"), ("TEM", "nm_per_px")]
)
def test_missing_pixel_size(tmp_path, ingest, modality, column):
    _write(tmp_path / "d" / "a.png", _noise((40, 50)))
    table = ingest({"path": "d/a.png", "modality": modality})
    assert _bad(table, "no_pixel_size") == (
        "d/a.png: neither the file nor images.csv tells the pixel size; fill column "
        f"'{column}' of its row in images.csv, or set imaging.ingest.{column} for all such images"
    )
    assert (table["width"][0], table["pixel_size_from"][0]) == (50, "")
    assert math.isnan(table["um_per_px"][0])


def test_configured_pixel_sizes(tmp_path, ingest):
    _write(tmp_path / "a.png", _noise((40, 50)))
    table = ingest(
        {"path": "a.png", "modality": "IM"},
        {"path": "a.png", "modality": "TEM"},
        settings={"um_per_px": 0.65, "nm_per_px": 4.0},
    )
    assert table["um_per_px"].tolist() == pytest.approx([0.65, 0.004])
    assert table["pixel_size_from"].tolist() == ["config", "config"]


def test_ready_made_crops_need_neither_pixel_size_nor_annotation(tmp_path, ingest):
    _write(tmp_path / "a.png", _noise((40, 50, 3)))
    table = ingest({"path": "a.png", "kind": "crop"})
    assert table[["status", "pixel_size_from"]].to_numpy().tolist() == [["ok", "none"]]
    assert math.isnan(table["um_per_px"][0])


ANISOTROPIC = OM_TAGS | {"resolution": (20000, 40000)}


def test_pixels_that_are_not_square(tmp_path, ingest):
    _write(tmp_path / "a.tif", _noise((40, 50, 3)), **ANISOTROPIC)
    table = ingest({"path": "a.tif", "kind": "crop"})
    assert _bad(table, "anisotropic") == (
        "a.tif: its pixels are 0.5 x 0.25 µm, not square; export it with square pixels, or fill column "
        "'um_per_px' in images.csv if the file's tags are wrong, or set cohort.allow_anisotropic: true"
    )
    allowed = ingest({"path": "a.tif", "kind": "crop"}, allow_anisotropic=True)
    assert allowed["um_per_px"].tolist() == pytest.approx([math.sqrt(0.125)])
    told = ingest({"path": "a.tif", "kind": "crop", "um_per_px": 0.4})
    assert told[["status", "um_per_px", "pixel_size_from"]].to_numpy().tolist() == [["ok", 0.4, "sheet"]]


def test_markers_that_do_not_fit_the_channels(tmp_path, ingest):
    tifffile.imwrite(tmp_path / "a.ome.tif", _noise((2, 50, 60), np.uint16), photometric="minisblack")
    row = {"path": "a.ome.tif", "modality": "IM", "um_per_px": 0.3, "marker": "IgG;IgA;C3"}
    reason = _bad(ingest(row), "unsupported_format")
    assert "a.ome.tif" in reason
    assert "3" in reason
    assert "2" in reason


def test_damaged_annotation(tmp_path, ingest):
    _write(tmp_path / "a.tif", _noise((96, 128, 3)), **OM_TAGS)
    (tmp_path / "a.geojson").write_text("{ not json")
    reason = _bad(ingest({"path": "a.tif", "annotation": "a.geojson"}), "unreadable")
    assert "a.geojson' is not GeoJSON" in reason
    assert reason.endswith("export it again")


def test_missing_annotation(tmp_path, ingest):
    _write(tmp_path / "a.tif", _noise((40, 50, 3)), **OM_TAGS)
    table = ingest({"path": "a.tif"})
    assert _bad(table, "no_annotation") == (
        "a.tif: no glomerulus outlines are given; name the file of its outlines in column 'annotation' of "
        "images.csv, write 'crop' in column 'kind' if the image is one glomerulus, or let the finder outline "
        "images that have no annotation (imaging.finder.enabled: true)"
    )
    assert table["um_per_px"].tolist() == [0.5]
    assert "there is no file x.geojson" in _bad(
        ingest({"path": "a.tif", "annotation": "x.geojson"}), "no_annotation"
    )


def _inked(path):
    pixels = np.full((200, 300, 3), 240, np.uint8)
    pixels[::3] = (200, 120, 180)
    pixels[60:120, 50:250] = (30, 50, 160)
    _write(path, pixels)


def test_a_poor_image_is_flagged_and_stays(tmp_path, ingest):
    _inked(tmp_path / "a.png")
    table = ingest({"path": "a.png", "um_per_px": 4.0, "kind": "crop"})
    assert table[["status", "reason", "quality"]].to_numpy().tolist() == [["ok", "", "pen"]]
    assert table["pen_fraction"][0] == pytest.approx(0.2, abs=0.01)


def test_a_flag_that_is_excluded_leaves_the_image_out(tmp_path, ingest):
    _inked(tmp_path / "a.png")
    row = {"path": "a.png", "um_per_px": 4.0, "kind": "crop"}
    table = ingest(row, quality={"exclude": ["pen", "fold"]})
    share = f"{table['pen_fraction'][0]:.3g}"
    assert _bad(table, "poor_quality") == (
        f"a.png: pen_fraction {share} is above 0.002 (imaging.quality.max_pen), and imaging.quality.exclude "
        "names 'pen'; take a better image, change the threshold, or take the flag off that list"
    )
    assert table["quality"].tolist() == ["pen"]
    assert (tmp_path / "inventory" / table["thumbnail"][0]).is_file()
    assert ingest(row, quality={"exclude": ["fold"]})["status"].tolist() == ["ok"]
    assert ingest(row, quality={"exclude": ["pen"], "max_pen": 0.5})["status"].tolist() == ["ok"]


@pytest.mark.parametrize("level", [0, 3])
def test_a_negative_marker_is_kept(tmp_path, ingest, level):
    dark = np.random.default_rng(0).integers(0, level + 1, (300, 400), dtype=np.uint8)
    _write(tmp_path / "a.png", dark)
    table = ingest({"path": "a.png", "modality": "IM", "um_per_px": 0.5})
    assert table[["status", "quality"]].to_numpy().tolist() == [["ok", "underexposed"]]
    assert math.isnan(table["focus"][0])


def test_one_bad_image_does_not_touch_the_others(tmp_path, ingest):
    _write(tmp_path / "a.png", _noise((40, 50)))
    rows = [{"path": name, "modality": "TEM", "nm_per_px": 1.0} for name in ("none.png", "a.png", "x.png")]
    assert ingest(*rows)["status"].tolist() == ["missing_file", "ok", "missing_file"]


def test_long_image_names(tmp_path, ingest):
    _write(tmp_path / "a.png", _noise((40, 50)))
    table = ingest({"path": "a.png", "image": "long__" * 60, "modality": "TEM", "nm_per_px": 1.0})
    assert table["status"].tolist() == ["ok"]
    assert (tmp_path / "inventory" / table["thumbnail"][0]).is_file()


def test_errors_of_our_own_are_not_hidden(tmp_path, ingest, monkeypatch):
    _write(tmp_path / "a.png", _noise((40, 50)))

    def wrong(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("glomflow.imaging.inventory.measure", wrong)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        ingest({"path": "a.png", "modality": "TEM", "nm_per_px": 1.0})


class _Reader:
    path = Path("nowhere") / "image.tif"

    def __init__(self, pixel_size):
        self.pixel_size = pixel_size


@pytest.mark.parametrize(
    ("row", "tags", "expected"),
    [
        ({"modality": "OM", "um_per_px": 0.5}, (0.25, 0.25), (0.5, "sheet")),
        ({"modality": "OM", "nm_per_px": 250.0}, None, (0.25, "sheet")),
        ({"modality": "TEM", "nm_per_px": 8.0}, (0.25, 0.25), (0.008, "sheet")),
        ({"modality": "TEM", "um_per_px": 0.008}, None, (0.008, "sheet")),
        ({"modality": "TEM", "nm_per_px": 8.0, "um_per_px": 1.0}, None, (0.008, "sheet")),
        ({"modality": "OM", "nm_per_px": 8.0, "um_per_px": 1.0}, None, (1.0, "sheet")),
        ({"modality": "OM", "um_per_px": math.nan}, (0.25, 0.25), (0.25, "tags")),
        ({"modality": "OM"}, (0.250, 0.252), (0.250998, "tags")),
        ({"modality": "OM"}, None, (3.0, "config")),
        ({"modality": "TEM"}, None, (0.004, "config")),
        ({"modality": "OM", "kind": "crop"}, None, (3.0, "config")),
    ],
)
def test_order_of_pixel_sizes(row, tags, expected):
    size, source = pixel_size_of(
        _Reader(tags), row, um_per_px_default=3.0, nm_per_px_default=4.0, allow_anisotropic=False
    )
    assert (size, source) == (pytest.approx(expected[0], rel=1e-5), expected[1])


def test_anisotropic_electron_micrographs_are_told_in_nm():
    with pytest.raises(ImageError, match=r"t\.tif: its pixels are 2 x 3 nm, .* column 'nm_per_px'") as error:
        pixel_size_of(
            _Reader((0.002, 0.003)),
            {"modality": "TEM", "path": "t.tif"},
            um_per_px_default=None,
            nm_per_px_default=1.0,
            allow_anisotropic=False,
        )
    assert error.value.status == "anisotropic"


# --- gathering ---


def _inventory(*rows):
    empty = {"string": "", "int64": 0, "float64": math.nan}
    base = {column: empty[spec.dtype] for column, spec in INVENTORY.items()}
    return pd.DataFrame([base | {"status": "ok"} | row for row in rows])


def test_gathering_sorts_by_patient_and_keeps_the_order_within():
    gathered = gather_inventory(
        [
            _inventory({"patient": "P2", "image": "z"}, {"patient": "P2", "image": "a"}),
            _inventory({"patient": "P1", "image": "q"}),
        ]
    )
    assert gathered["image"].tolist() == ["q", "z", "a"]
    assert list(gathered.index) == [0, 1, 2]


def test_files_that_two_patients_share():
    frames = [
        _inventory({"patient": "P1", "path": "OM/a.tif", "sha256": "ab"}),
        _inventory(
            {"patient": "P2", "path": "OM/b.tif", "sha256": "ab"},
            {"patient": "P2", "path": "OM/c.tif", "sha256": "cd"},
            {"patient": "P3", "path": "OM/d.tif", "sha256": "cd", "status": "no_annotation"},
        ),
    ]
    with pytest.raises(CohortError) as error:
        gather_inventory(frames)
    assert str(error.value).splitlines() == [
        "2 problems in the cohort sheets:",
        "  1. images.csv, column 'path', value 'OM/b.tif': this image of patient 'P2' is the same file, byte "
        "for byte, as 'OM/a.tif' of patient 'P1'; find out whose it is and remove the other row",
        "  2. images.csv, column 'path', value 'OM/d.tif': this image of patient 'P3' is the same file, byte "
        "for byte, as 'OM/c.tif' of patient 'P2'; find out whose it is and remove the other row",
    ]


def test_files_that_stand_twice_for_one_patient():
    rows = [{"patient": "P1", "path": name, "sha256": "ab"} for name in ("a.tif", "b.tif", "c.tif")]
    rows[0]["status"] = "no_annotation"
    gathered = gather_inventory([_inventory(*rows)])
    assert gathered["status"].tolist() == ["no_annotation", "ok", "duplicate_file"]
    assert gathered["reason"].tolist()[2] == (
        "c.tif: the same file, byte for byte, as b.tif of the same patient; remove one of the two rows from "
        "images.csv"
    )


@pytest.mark.parametrize("status", ["missing_file", "unreadable", "unsupported_format", "blank"])
def test_files_without_content_are_no_duplicates(status):
    frame = _inventory(
        *({"patient": name, "sha256": "e3b0", "status": status} for name in ("P1", "P1", "P2"))
    )
    assert gather_inventory([frame])["status"].tolist() == [status] * 3


def test_files_without_a_digest_are_no_duplicates():
    frame = _inventory({"patient": "P1"}, {"patient": "P2"})
    assert gather_inventory([frame])["status"].tolist() == ["ok", "ok"]


def test_problems_are_printed(capsys):
    bad = {"patient": "P1", "path": "a.png", "status": "blank", "reason": "a.png: every pixel ..."}
    report_problems(_inventory({"patient": "P2"}, bad), strict=False)
    assert capsys.readouterr().out == (
        "1 of 2 images cannot be used:\n  P1, a.png, blank: a.png: every pixel ...\n"
    )
    report_problems(_inventory({"patient": "P2"}), strict=True)
    assert capsys.readouterr().out == ""


def test_strict_stops_at_a_problem():
    bad = {"patient": "P1", "path": "a.png", "status": "blank", "reason": "a.png: every pixel ..."}
    with pytest.raises(
        GlomflowError, match=r"1 of 1 images cannot be used:\n  P1, a.png, blank: .*"
    ) as error:
        report_problems(_inventory(bad), strict=True)
    assert str(error.value).endswith("Mend them, or set run.strict: false to go on without them.")


def test_real_images(tmp_path, real_data):
    frame = _images(
        {"path": "stains/kidney_02_pas.png", "um_per_px": 0.5, "kind": "crop"},
        {"path": "if/IgG.jpg", "modality": "IM", "um_per_px": 0.4},
        {"path": "tem/olympus_sis.tif", "modality": "TEM"},
        {"path": "formats/broken.svs"},
        {"path": "tem/fpw_good.png", "modality": "TEM"},
    )
    table = ingest_shard(
        frame, real_data, Ingest(), allow_anisotropic=False, thumbnails=tmp_path / "t" / "0", shard=0
    )
    assert table["status"].tolist() == [
        "ok",
        "ok",
        "ok",
        "unreadable",
        "no_pixel_size",
    ]
    assert table["um_per_px"].tolist()[2] == pytest.approx(0.0151545, rel=1e-5)
    assert table["tissue_fraction"].between(0.05, 1.0).tolist()[:3] == [True] * 3


def test_focus_follows_the_grades_of_micrographs(tmp_path, real_data):
    names = ("fpw_bad", "fpw_okay", "fpw_good")
    frame = _images(*({"path": f"tem/{name}.png", "modality": "TEM", "nm_per_px": 10.0} for name in names))
    table = ingest_shard(
        frame, real_data, Ingest(), allow_anisotropic=False, thumbnails=tmp_path / "t" / "0", shard=0
    )
    assert table["focus"].is_monotonic_increasing
