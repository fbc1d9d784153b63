"""The command line."""

import numpy as np
import pytest
from PIL import Image

from glomflow.cli import main


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
