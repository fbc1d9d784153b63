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
