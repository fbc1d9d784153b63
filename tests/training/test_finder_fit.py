"""Training the finder: what it learns, resumption to the same bits, its files, and its budget."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glomflow.config_finder import Finder
from glomflow.errors import GlomflowError
from glomflow.files import sha256_file
from glomflow.imaging.annotations import polygon_mask
from glomflow.tables import read_table
from glomflow.training.finder_fit import FINDER_HISTORY, finder_loss, plan_steps, rate_at, train_finder
from glomflow.training.finder_image import ScaledImage
from glomflow.training.finder_models import load_finder
from glomflow.training.finder_predict import find, predict_maps
from glomflow.training.finder_types import FinderField, FinderFiles, GlomerulusModel
from training.finder_synthetic import draw, field, settings

DISCS = [(40.0, 40.0, 22.0), (92.0, 84.0, 26.0)]


class Stopped(Exception):
    """Raised by a test in the middle of a training."""


def stop_after(last: int):
    def observer(step: int) -> None:
        if step == last:
            raise Stopped

    return observer


def files_in(folder: Path) -> FinderFiles:
    return FinderFiles(
        folder / "finder.safetensors",
        folder / "finder.json",
        folder / "history.parquet",
        folder / "c" / "c.pt",
    )


def train(
    folder: Path, finder: Finder, validation: list[FinderField] | None = None, **options: Any
) -> FinderFiles:
    files = files_in(folder)
    held_out = [field("v", DISCS[:1])] if validation is None else validation
    train_finder([field("t", DISCS)], held_out, finder, files, seed=3, **options)
    return files


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finder, GlomerulusModel]:
    changes = {"steps": 80, "validate_every": 80, "stain": 0.0, "colour": 0.0, "frozen": 0.0}
    finder = settings(tile=128, training=changes)
    files = train(tmp_path_factory.mktemp("overfitted"), finder, validation=[])
    return finder, load_finder(finder, files.weights, files.description, device="cpu")


def test_it_learns_a_field(overfitted: tuple[Finder, GlomerulusModel]) -> None:
    finder, model = overfitted
    given = field("t", DISCS)
    assert isinstance(given.source, np.ndarray)
    found = find(given.source, 2.0, model, finder)
    assert len(found) == 2
    wanted, got = (
        polygon_mask([each.polygon for each in outlines], 128) for outlines in (given.outlines, found)
    )
    assert 2 * (wanted & got).sum() / (wanted.sum() + got.sum()) > 0.9


def test_tiles_give_the_map_of_the_whole_image(overfitted: tuple[Finder, GlomerulusModel]) -> None:
    finder, model = overfitted
    picture = draw(224, 192, [(50, 50, 24), (112, 96, 28), (180, 140, 22)])
    view = ScaledImage(picture, 2.0, 2.0)
    whole = predict_maps(view, model, finder.model_copy(update={"tile": 224}))
    tiled = predict_maps(view, model, finder.model_copy(update={"overlap": 0.5}))
    assert whole.shape == tiled.shape == (2, 192, 224)
    difference = np.abs(whole[0].astype(float) - tiled[0]) / 255
    assert difference.mean() < 0.02
    assert ((whole[0] > 127) == (tiled[0] > 127)).mean() > 0.98
    assert len(find(picture, 2.0, model, finder.model_copy(update={"overlap": 0.5}))) == 3


def test_a_trained_finder_sees_nothing_in_plain_images(overfitted: tuple[Finder, GlomerulusModel]) -> None:
    finder, model = overfitted
    for size in ((10, 10), (1, 1), (200, 7)):
        assert find(np.full((*size, 3), 255, np.uint8), 2.0, model, finder) == []


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    finder = settings(training={"frozen": 0.5})
    straight = train(tmp_path / "straight", finder)
    with pytest.raises(Stopped):
        train(tmp_path / "halting", finder, checkpoint_interval=0.0, observer=stop_after(2))
    halted = files_in(tmp_path / "halting")
    assert halted.checkpoint.is_file()
    assert not halted.weights.exists()
    train(tmp_path / "halting", finder, checkpoint_interval=0.0)
    for ours, theirs in (
        (straight.weights, halted.weights),
        (straight.history, halted.history),
        (straight.description, halted.description),
    ):
        assert sha256_file(ours) == sha256_file(theirs)
    assert not halted.checkpoint.exists()
    assert sorted(path.name for path in halted.checkpoint.parent.iterdir()) == []


def test_its_files_tell_how_it_was_trained(tmp_path: Path) -> None:
    files = train(tmp_path, settings(training={"steps": 5}))
    about = json.loads(files.description.read_text())
    history = read_table(files.history, FINDER_HISTORY)
    assert history["step"].tolist() == [2, 4, 5]
    assert about["selected_step"] == history.loc[history["validation_loss"].idxmin(), "step"]
    assert about["validation_loss"] == history["validation_loss"].min()
    assert (about["training_images"], about["validation_images"]) == (["t"], ["v"])
    assert (about["training_glomeruli"], about["validation_glomeruli"]) == (2, 1)
    assert all(value.isfinite().all() for value in load_file(files.weights).values())


def test_without_validation_the_last_step_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = train(tmp_path, settings(), validation=[])
    about = json.loads(files.description.read_text())
    assert (about["selected_step"], about["validation_loss"]) == (4, None)
    assert "no validation field shows a glomerulus; the last step is taken" in capsys.readouterr().out


def test_an_encoder_that_is_left_alone_keeps_its_weights(tmp_path: Path) -> None:
    from glomflow.models.unet import build_finder_net

    finder = settings(training={"encoder_rate": 0.0, "steps": 2})
    weights = load_file(train(tmp_path, finder).weights)
    before = build_finder_net(finder.encoder, pretrained=True).encoder.state_dict()
    assert all(torch.equal(weights[f"encoder.{name}"], value) for name, value in before.items())


def test_a_budget_plans_fewer_steps(tmp_path: Path) -> None:
    files = train(tmp_path, settings(training={"steps": 100_000, "max_minutes": 1e-6}))
    assert json.loads(files.description.read_text())["steps"] == 1


@pytest.mark.parametrize(
    ("steps", "minutes", "seconds", "planned"),
    [(1500, None, None, 1500), (1500, 60.0, 1.2, 1500), (1500, 10.0, 1.9, 300), (1500, 0.001, 5.0, 1)],
)
def test_steps_fit_the_time(steps: int, minutes: float | None, seconds: float | None, planned: int) -> None:
    assert plan_steps(steps, minutes, lambda: seconds) == planned


def test_the_rate_climbs_and_falls() -> None:
    rates = [rate_at(step, 100, 1e-3) for step in range(100)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert rates[52] == pytest.approx(5.1e-4, rel=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5, rel=0.05)


def test_the_loss_of_a_perfect_and_of_an_undecided_map() -> None:
    targets = torch.zeros(1, 8, 8, 2, dtype=torch.uint8)
    targets[:, :4] = 255
    right = torch.full((1, 2, 4, 4), -30.0)
    right[:, :, :2] = 30.0
    loss, overlap = finder_loss(right, targets)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert overlap.tolist() == [16.0, 16.0]
    undecided, _ = finder_loss(torch.zeros(1, 2, 4, 4), targets)
    # Twice ln 2, and Dice of 8 halves: 1 - (2 * 4 + 1) / (8 + 8 + 1).
    assert float(undecided) == pytest.approx(2 * math.log(2) + 8 / 17)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    wild = settings(training={"learning_rate": 1e30, "steps": 6, "frozen": 0.0})
    with pytest.raises(GlomflowError, match=r"the loss is not finite before step \d; lower imaging"):
        train(tmp_path, wild)
