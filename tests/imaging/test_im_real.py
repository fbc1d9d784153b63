"""IM crops of real renal immunofluorescence, one colour picture per marker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glomflow.config import ImCrops
from glomflow.imaging.im import crop_im_shard

MARKERS = ("IgG", "IgA", "IgM", "C3", "C1q")


def tables(folder: Path, markers: tuple[str, ...], patients: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": list(markers),
            "patient": list(patients),
            "modality": "IM",
            "path": [f"{marker}.jpg" for marker in markers],
            "slide": list(markers),
            "status": "ok",
            "channels": "R;G;B",
            "um_per_px": float("nan"),
            "marker": list(markers),
            "annotation": None,
            "lesion": None,
            "row": range(2, 2 + len(markers)),
        }
    )


def test_a_set_of_five_files(real_data: Path) -> None:
    folder = real_data / "if"
    frame = tables(folder, MARKERS, ("p1",) * 5)
    crops, index = crop_im_shard(frame, frame, folder, ImCrops())
    assert crops.shape == (1, 224, 224, 3)
    assert list(index["flag"]) == [""]
    assert (index["x"][0], index["y"][0], index["width"][0]) == (200, 0, 1200)
    means = crops[0].reshape(-1, 3).mean(axis=0)
    assert means[0] > means[1] > 0
    assert 0.1 < index["information"][0] < 1.0


@pytest.mark.parametrize("marker", MARKERS)
def test_one_marker_alone(real_data: Path, marker: str) -> None:
    folder = real_data / "if"
    frame = tables(folder, (marker,), ("p1",))
    crops, index = crop_im_shard(frame, frame, folder, ImCrops())
    colour = {"IgG": 0, "IgA": 1}.get(marker, 2)
    assert crops[0, :, :, colour].max() > 40
    assert np.delete(crops[0], colour, axis=2).max() == 0
    assert np.isfinite(index["information"][0])
    assert ("dark" in index["flag"][0]) == (marker == "C1q")


@pytest.mark.parametrize("marker", MARKERS)
def test_photographs_without_a_marker_are_seen_to_show_one(
    real_data: Path, marker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_data / "if"
    frame = tables(folder, (marker,), ("p1",)).assign(marker=None)
    crops, index = crop_im_shard(frame, frame, folder, ImCrops())
    assert (crops[0] == crops[0][:, :, :1]).all()
    assert index["flag"][0] == ("dark;one_hue" if marker == "C1q" else "one_hue")
    assert f"note: {marker}.jpg shows a single hue" in capsys.readouterr().out
    named = tables(folder, (marker,), ("p1",))
    same, _ = crop_im_shard(named, named, folder, ImCrops(markers=[marker]))
    assert np.array_equal(crops, same)


@pytest.mark.parametrize("method", ["percentile", "rolling"])
def test_background_of_real_photographs(real_data: Path, method: str) -> None:
    folder = real_data / "if"
    patients = tuple(f"p{number}" for number in range(5))
    frame = tables(folder, MARKERS, patients)
    before, _ = crop_im_shard(frame, frame, folder, ImCrops())
    after, index = crop_im_shard(frame, frame, folder, ImCrops(background=method))
    assert (after <= before).all()
    assert list(index["flag"]) == ["", "", "", "", "dark"]
    assert list(index["selected"]) == [True] * 5
    # The haze goes, the deposits stay.
    for old, new in zip(before[:4].max(axis=3), after[:4].max(axis=3), strict=True):
        assert np.median(new) < 0.85 * np.median(old)
        assert np.percentile(new, 99) > 0.6 * np.percentile(old, 99)
