"""The command line."""

import numpy as np
import pytest
from PIL import Image

from glomflow.cli import main
from glomflow.imaging.annotations import read_outlines


def picture(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)).save(path)


def test_import_and_check(tmp_path, capsys) -> None:
    for number, (label, patient) in enumerate([("MN", "p1"), ("MN", "p2"), ("LN", "p3"), ("LN", "p4")]):
        picture(tmp_path / label / patient / f"OM_{label}_{patient}_a.png", 2 * number)
        picture(tmp_path / label / patient / f"TEM_{label}_{patient}_b.png", 2 * number + 1)
    assert main(["import-published", str(tmp_path)]) == 0
    assert "patients.csv" in capsys.readouterr().out
    assert main(["check", str(tmp_path), "--classes", "MN", "LN", "--folds", "2"]) == 0
    assert capsys.readouterr().out == "4 patients and 8 images: no problem found\n"


def test_errors_are_messages(tmp_path, capsys) -> None:
    picture(tmp_path / "MN" / "p1" / "XX_MN_p1_a.png", 0)
    assert main(["import-published", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "XX_MN_p1_a.png" in error
    assert not (tmp_path / "images.csv").exists()


def test_a_command_is_needed(capsys) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "import-published" in capsys.readouterr().err


def test_formats(capsys) -> None:
    assert main(["formats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "format",
        "suffixes",
        "reader",
        "library",
        "extra",
        "installed",
        "features",
    ]
    assert len(lines) == 11
    assert any(line.startswith("Zeiss CZI") and " .czi " in line for line in lines)


def test_annotations(tmp_path, capsys) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 10:30] = 1
    mask[20:35, 40:55] = 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(tmp_path / "field.png")
    out = tmp_path / "field.geojson"
    words = ["annotations", str(tmp_path / "mask.png"), "--image", str(tmp_path / "field.png")]
    assert main([*words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote 2 outlines to {out}\n"
    boxes = [outline.box for outline in read_outlines(out, image_size=(60, 40))]
    assert boxes == [(10, 5, 30, 15), (40, 20, 55, 35)]
