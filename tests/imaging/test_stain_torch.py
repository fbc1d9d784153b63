"""The PyTorch backend gives what the NumPy backend gives."""

import numpy as np
import pytest
import torch

from glomflow.config import Stain
from glomflow.errors import GlomflowError
from glomflow.imaging.stain import StainProfile, estimate_profile, normalise
from glomflow.imaging.stain.torch_backend import estimate_batch, normalise_batch
from imaging.stain_pictures import ODD, three_stains, two_stains

DRAWN = [
    two_stains(size=(64, 64), seed=seed, strength=0.7 + 0.3 * seed, white=250.0 - seed) for seed in range(3)
]
FLAT = [picture for picture in ODD.values() if picture.shape == (64, 64, 3)]
PICTURES = np.stack(DRAWN + FLAT)
THREE_STAINS = np.stack([three_stains(seed, edge=64) for seed in range(3)] + FLAT)
CASES = [("macenko", 2), ("macenko", 3), ("vahadane", 2), ("vahadane", 3), ("reinhard", 2)]
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_CUDA)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("method", "stains"), CASES)
def test_both_backends_agree(method, stains, device):
    pictures = THREE_STAINS if stains == 3 else PICTURES
    chosen = Stain(method=method)
    batch = torch.from_numpy(pictures).to(device)
    own = [estimate_profile(picture, chosen, str(i), stains=stains) for i, picture in enumerate(pictures)]
    found = estimate_batch(batch, chosen, [str(i) for i in range(len(pictures))], stains=stains)
    assert [profile.flag for profile in found] == [profile.flag for profile in own]
    assert [profile.flag for profile in own][:3] == ["", "", ""]
    assert any(profile.flag for profile in own)
    names = ("lab_mean", "lab_std") if method == "reinhard" else ("matrix", "concentrations")
    for mine, theirs in zip(own, found, strict=True):
        assert (mine.slide, mine.background, mine.tissue_pixels) == (
            theirs.slide,
            theirs.background,
            theirs.tissue_pixels,
        )
        for name in names if not mine.flag else ():
            tolerance = 1e-4 if method == "reinhard" else 1e-9
            assert np.allclose(getattr(mine, name), getattr(theirs, name), rtol=0, atol=tolerance)
    expected = np.stack([normalise(p, profile, own[1]) for p, profile in zip(pictures, own, strict=True)])
    result = normalise_batch(batch, found, own[1])
    assert result.device == batch.device
    gap = np.abs(result.cpu().numpy().astype(int) - expected)
    assert gap.max() <= 1
    assert (gap > 0).mean() < 0.001
    assert not np.array_equal(expected[0], pictures[0])


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_channels_may_come_first(method):
    chosen = Stain(method=method)
    last = torch.from_numpy(PICTURES[:3])
    first = last.permute(0, 3, 1, 2)
    assert estimate_batch(first, chosen) == estimate_batch(last, chosen)
    sources = estimate_batch(last, chosen)
    result = normalise_batch(first, sources, sources[0])
    assert result.shape == (3, 3, 64, 64)
    assert torch.equal(result.permute(0, 2, 3, 1), normalise_batch(last, sources, sources[0]))


@pytest.mark.parametrize("over", ["tissue", "image"])
def test_settings_reach_both_backends(over):
    options = {"background": (244.0, 243.0, 242.0), "concentrations_over": over}
    (found,) = estimate_batch(torch.from_numpy(PICTURES[:1]), Stain(percentile=5.0), **options)
    own = estimate_profile(PICTURES[0], Stain(percentile=5.0), **options)
    assert np.allclose(found.matrix, own.matrix, rtol=0, atol=1e-9)
    assert np.allclose(found.concentrations, own.concentrations, rtol=0, atol=1e-9)
    assert found.background == (244.0, 243.0, 242.0)


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard", "none"])
@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3), (2, 1, 1, 3)])
def test_empty_and_tiny_batches(method, shape):
    batch = torch.full(shape, 120, dtype=torch.uint8)
    profiles = estimate_batch(batch, Stain(method=method))
    assert len(profiles) == shape[0]
    flags = [] if method == "none" else [f"{shape[1] * shape[2]} tissue pixels, 200 are needed"] * shape[0]
    assert [profile.flag for profile in profiles if profile.flag] == flags
    assert torch.equal(normalise_batch(batch, profiles, StainProfile(method)), batch)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 3),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
    ],
    ids=["RGBA", "float", "one image"],
)
def test_other_tensors_are_refused(batch):
    expected = r"uint8 of shape \(B, H, W, 3\) or \(B, 3, H, W\), not torch\.\w+ of shape .*; drop an alpha"
    with pytest.raises(GlomflowError, match=expected):
        estimate_batch(batch, Stain())
    with pytest.raises(GlomflowError, match=expected):
        normalise_batch(batch, StainProfile("macenko"), StainProfile("macenko"))


def test_profiles_must_fit_the_batch():
    batch = torch.from_numpy(PICTURES[:3])
    with pytest.raises(GlomflowError, match="2 sources for 3 images; give one profile per image, or one"):
        normalise_batch(batch, [StainProfile("macenko")] * 2, StainProfile("macenko"))
    with pytest.raises(GlomflowError, match="slide 'S' is reinhard, the target macenko"):
        normalise_batch(batch, StainProfile("reinhard", "S"), StainProfile("macenko"))
