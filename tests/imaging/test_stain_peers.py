"""Agreement with other normalisers on real sections, where those are right."""

import numpy as np
import pytest
from PIL import Image

from glomflow.config import Stain
from glomflow.imaging.stain import PUBLISHED_BACKGROUND, StainProfile, estimate_profile, normalise, rgb_to_lab
from glomflow.imaging.stain_targets import STANDARD_MACENKO


@pytest.fixture(scope="module")
def fields(real_data):
    """The middle of an H&E and of a PAS field, 500 x 500."""
    names = ("kidney_01_he", "kidney_02_pas")
    paths = [real_data / "stains" / f"{name}.png" for name in names]
    return [np.asarray(Image.open(path).convert("RGB"))[250:750, 250:750] for path in paths]


def mean_gap(ours, theirs):
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).mean()


def as_torchstain(picture):
    return estimate_profile(picture, Stain(), background=PUBLISHED_BACKGROUND, concentrations_over="image")


def test_macenko_differs_from_torchstain_by_its_offset_alone(fields):
    macenko = pytest.importorskip("torchstain.numpy.normalizers.macenko")
    peer = macenko.NumpyMacenkoNormalizer()
    peer.fit(fields[1])
    theirs = peer.normalize(fields[0], stains=False)[0]
    ours = normalise(fields[0], as_torchstain(fields[0]), as_torchstain(fields[1]))
    # torchstain does not take its + 1 off again (+1) and truncates where we round (-0.5 on average).
    assert mean_gap(ours, theirs) == pytest.approx(0.5, abs=0.05)
    assert mean_gap(ours + 1, theirs) == pytest.approx(0.5, abs=0.05)


def test_macenko_agrees_with_torchstains_torch_backend(fields):
    import torch

    macenko = pytest.importorskip("torchstain.torch.normalizers.macenko")
    peer = macenko.TorchMacenkoNormalizer()
    theirs = peer.normalize(torch.from_numpy(fields[0].copy()).permute(2, 0, 1), stains=False)[0].numpy()
    ours = normalise(fields[0], as_torchstain(fields[0]), STANDARD_MACENKO["HE"])
    assert mean_gap(ours, theirs) < 0.6
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_reinhard_agrees_with_torchstain(fields):
    reinhard = pytest.importorskip("torchstain.numpy.normalizers.reinhard")
    peer = reinhard.NumpyReinhardNormalizer()
    peer.fit(fields[1])
    theirs = peer.normalize(fields[0])
    # As torchstain does: statistics over the whole image, glass recoloured too.
    source, target = (
        StainProfile(
            "reinhard",
            lab_mean=tuple(rgb_to_lab(field).mean(axis=(0, 1), dtype=float)),
            lab_std=tuple(rgb_to_lab(field).std(axis=(0, 1), dtype=float)),
            background=(1e6, 1e6, 1e6),
        )
        for field in fields
    )
    ours = normalise(fields[0], source, target)
    assert mean_gap(ours, theirs) == pytest.approx(0.5, abs=0.05)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_macenko_agrees_with_tiatoolbox(fields):
    from glomflow.models.torchvision_compat import import_torchvision

    import_torchvision()
    stainnorm = pytest.importorskip("tiatoolbox.tools.stainnorm", exc_type=ImportError)
    peer = stainnorm.get_normalizer("macenko")
    peer.fit(fields[1].copy())
    theirs = peer.transform(fields[0].copy())
    source, target = (
        estimate_profile(field, Stain(), background=(255.0,) * 3, concentrations_over="image")
        for field in fields
    )
    # Tissue is told from glass in another way there, so that the vectors differ a little.
    assert mean_gap(normalise(fields[0], source, target), theirs) == pytest.approx(4.7, abs=0.2)
