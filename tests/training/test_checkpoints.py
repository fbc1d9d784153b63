"""Checkpoints that are damaged, foreign or half written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glomflow.training.checkpoints import Checkpoint, restore
from glomflow.training.engine import Progress

CPU = torch.device("cpu")


def saved(path: Path) -> Checkpoint:
    checkpoint = Checkpoint(path, "mine")
    checkpoint.save({"progress": {"epoch": 3}, "weights": torch.arange(4096.0)})
    return checkpoint


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = saved(tmp_path / "a.pt").load(CPU)
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(4096.0))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "other"])
def test_a_damaged_file_is_told_and_set_aside(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(tmp_path / "a.pt")
    data = bytearray(checkpoint.path.read_bytes())
    data[len(data) // 2] ^= 16
    whole = checkpoint.path.read_bytes()
    content = {
        "bit": bytes(data),
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "other": b"not a checkpoint",
    }
    checkpoint.path.write_bytes(content[damage])
    start = Progress()
    progress, resumed = restore(checkpoint, start, {}, CPU)
    assert (progress, resumed) == (start, False)
    told = capsys.readouterr().out
    assert f"checkpoint {checkpoint.path} cannot be read (" in told
    assert told.endswith("starting afresh\n")


def test_a_file_that_runs_code_is_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pt"
    torch.save({"digest": "mine", "state": Path("x")}, path)  # needs more than tensors and numbers
    assert Checkpoint(path, "mine").load(CPU) is None
    assert "cannot be read (" in capsys.readouterr().out


def test_a_foreign_file_is_told_and_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "a.pt")
    assert Checkpoint(tmp_path / "a.pt", "theirs").load(CPU) is None
    assert "belongs to other data, settings or code; starting afresh" in capsys.readouterr().out


def test_half_written_files_of_this_training_are_removed(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "fold0.pt")
    others = [".fold0-abc.pt", ".fold1-abcd_123.pt", ".fold0-x-abcd_123.pt", "fold0-abcd_123.pt"]
    for name in (".fold0-abcd_123.pt", *others):
        (tmp_path / name).write_bytes(b"half")
    _, resumed = restore(Checkpoint(checkpoint.path, "theirs"), Progress(), {}, CPU)
    assert not resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "fold0.pt"])
