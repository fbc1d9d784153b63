"""Stain normalisation of batches of images in PyTorch, on a processor or a graphics card.

Statistics over pixels are taken on the tensors' device in float64; what follows from them (axes,
vectors, flags) is decided by the same functions as for NumPy arrays. Profiles agree with those of
:func:`glomflow.imaging.stain.estimate_profile` to 1e-9 (Reinhard 1e-4, whose NumPy sums are of float32
values), images by at most one grey level, in less than 0.1 % of samples.

Not run on CUDA by the project's tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glomflow.errors import GlomflowError
from glomflow.imaging.stain.density import (
    GLASS_LEVEL,
    GLASS_SPREAD,
    background_of,
    density_table,
    tissue_of,
)
from glomflow.imaging.stain.engine import (
    CONCENTRATION_PERCENTILE,
    check_pair,
    is_changed,
    little_tissue,
    sampled_vectors,
    vector_profile,
)
from glomflow.imaging.stain.lab import (
    EPSILON,
    FROM_RELATIVE,
    KAPPA,
    LAB_OF_ROOTS,
    TO_RELATIVE,
    linear_table,
)
from glomflow.imaging.stain.mixing import level_factors
from glomflow.imaging.stain.profile import PUBLISHED_BACKGROUND, Array, StainProfile, Vector
from glomflow.imaging.stain.reinhard import fade_table, lab_mapping, reinhard_profile
from glomflow.imaging.stain.statistics import ranks_of
from glomflow.imaging.stain.vectors import check_stains, ordered, principal_axes, spaced, vectors_at

if TYPE_CHECKING:
    import torch

    from glomflow.config import Stain

BINS = 8192
"""Bins of the histograms in which ranks are looked up; the pixels of a bin are then sorted."""


def estimate_batch(
    images: torch.Tensor,
    settings: Stain,
    slides: Sequence[str] | None = None,
    *,
    stains: int = 2,
    background: Vector | None = None,
    concentrations_over: Literal["tissue", "image"] = "tissue",
    initial: tuple[Vector, ...] | None = None,
) -> list[StainProfile]:
    """Estimates a stain profile per image of a batch.

    See :func:`glomflow.imaging.stain.estimate_profile`. Dictionaries and three stains are found on the
    processor, from at most 50,000 tissue pixels per image.

    Args:
        images: (B, H, W, 3) or (B, 3, H, W) uint8, on any device.
        settings: Method and its thresholds.
        slides: (B) slide identifiers to carry along.
        stains: Number of stains, 2 or 3.
        background: White level of R, G, B; estimated from each image by default.
        concentrations_over: Pixels that the 99th percentile is taken over.
        initial: Stain vectors to order three by and to start Vahadane's search from.

    Returns:
        (B) profiles.

    Raises:
        GlomflowError: The tensor is no such batch, or ``stains`` or ``initial`` cannot be used.
    """
    check_stains(stains, initial)
    planes = _planes(images)
    names = list(slides) if slides is not None else [""] * len(planes)
    if settings.method == "none":
        return [StainProfile("none", name) for name in names]
    if not planes.numel():
        white, flag = background or PUBLISHED_BACKGROUND, little_tissue(0, settings)
        return [StainProfile(settings.method, name, background=white, flag=flag) for name in names]
    whites = [background] * len(planes) if background else _backgrounds(planes)
    mask = _tissue(planes, whites, settings.tissue_od)
    counts = mask.sum(dim=1).tolist()
    commons: list[dict[str, Any]] = [
        {"method": settings.method, "slide": name, "background": white, "tissue_pixels": count}
        for name, white, count in zip(names, whites, counts, strict=True)
    ]
    flags = [little_tissue(count, settings) for count in counts]
    if settings.method == "reinhard":
        moments = _lab_moments(planes, mask)
        return [
            StainProfile(**common, flag=flag) if flag else reinhard_profile(row, common)
            for row, common, flag in zip(moments, commons, flags, strict=True)
        ]
    density = _looked_up(planes, np.stack([density_table(white) for white in whites]))
    matrices = _matrices(planes, density, mask, whites, settings, stains, initial, flags)
    counted = mask if concentrations_over == "tissue" else mask.new_ones(mask.shape)
    amounts = _concentrations(density, counted, matrices)
    return [
        StainProfile(**common, flag=flag) if flag else vector_profile(matrix, amount, common)
        for matrix, amount, common, flag in zip(matrices, amounts, commons, flags, strict=True)
    ]


def normalise_batch(
    images: torch.Tensor,
    sources: StainProfile | Sequence[StainProfile],
    targets: StainProfile | Sequence[StainProfile],
) -> torch.Tensor:
    """Recolours each image of a batch from its profile to its target.

    Args:
        images: (B, H, W, 3) or (B, 3, H, W) uint8, on any device.
        sources: Profile of each image, or of all.
        targets: Profile that each image is to match, or all.

    Returns:
        uint8 of the same shape on the same device; images with a flagged profile are unchanged.

    Raises:
        GlomflowError: The tensor is no such batch, or profiles cannot be mixed or are of another number.
    """
    planes = _planes(images)
    pairs = list(
        zip(
            _one_each(sources, len(planes), "sources"),
            _one_each(targets, len(planes), "targets"),
            strict=True,
        )
    )
    for source, target in pairs:
        check_pair(source, target)
    result = planes.clone()
    for kind, recolour in (("vectors", _rebuild), ("reinhard", _match_lab)):
        chosen = [
            index
            for index, (source, target) in enumerate(pairs)
            if is_changed(source, target) and (source.method == "reinhard") == (kind == "reinhard")
        ]
        if chosen and planes.numel():
            result[chosen] = recolour(planes[chosen], [pairs[index] for index in chosen])
    batch, height, width = _layout(images)
    shaped = result.reshape(batch, 3, height, width)
    return shaped.permute(0, 2, 3, 1).contiguous() if images.shape[-1] == 3 else shaped


def _layout(images: torch.Tensor) -> tuple[int, int, int]:
    shape = tuple(images.shape)
    return (shape[0], shape[1], shape[2]) if shape[-1] == 3 else (shape[0], shape[2], shape[3])


def _planes(images: torch.Tensor) -> torch.Tensor:
    """Returns a batch as (B, 3, H * W)."""
    import torch

    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or 3 not in (shape[-1], shape[1]):
        raise GlomflowError(
            "a batch for stain normalisation is uint8 of shape (B, H, W, 3) or (B, 3, H, W), not "
            f"{images.dtype} of shape {shape}; drop an alpha channel and convert to 8 bit"
        )
    if shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    batch, _, height, width = images.shape
    return images.reshape(batch, 3, height * width)


def _one_each(
    profiles: StainProfile | Sequence[StainProfile], count: int, name: str
) -> Sequence[StainProfile]:
    if isinstance(profiles, StainProfile):
        return [profiles] * count
    if len(profiles) != count:
        raise GlomflowError(f"{len(profiles)} {name} for {count} images; give one profile per image, or one")
    return profiles


def _backgrounds(planes: torch.Tensor) -> list[Vector]:
    import torch

    batch = planes.shape[0]
    lowest, highest = planes.amin(dim=1), planes.amax(dim=1)
    glass = (lowest >= GLASS_LEVEL) & (highest - lowest <= GLASS_SPREAD)
    rows = torch.arange(batch, device=planes.device)[:, None].expand_as(glass)[glass] * 256
    histograms = [
        torch.bincount(rows + planes[:, channel][glass], minlength=batch * 256).reshape(batch, 256)
        for channel in range(3)
    ]
    counts = torch.stack(histograms, dim=1).cpu().numpy()
    return [background_of(histogram, planes.shape[2]) for histogram in counts]


def _tissue(planes: torch.Tensor, whites: Sequence[Vector], threshold: float) -> torch.Tensor:
    """Returns which pixels are tissue, (B, N)."""
    import torch

    rules = [tissue_of(white, threshold) for white in whites]
    limits = torch.as_tensor(np.stack([rule.limits for rule in rules])[:, :, None]).to(planes.device)
    mask: torch.Tensor = (planes <= limits).all(dim=1) & (planes.amax(dim=1) > rules[0].black)
    return mask


def _looked_up(planes: torch.Tensor, tables: Array) -> torch.Tensor:
    """Returns (B, 3, N) of ``tables``, (B, 3, 256), by level."""
    import torch

    levels = torch.as_tensor(tables, dtype=torch.float64, device=planes.device)
    return levels.gather(2, planes.long())


def _matrices(
    planes: torch.Tensor,
    density: torch.Tensor,
    mask: torch.Tensor,
    whites: Sequence[Vector],
    settings: Stain,
    stains: int,
    initial: tuple[Vector, ...] | None,
    flags: list[str],
) -> list[Array]:
    """Returns the stain vectors of each image and fills in ``flags``; a flagged image gets any vectors."""
    inside = density * mask[:, None]
    products = (inside @ density.transpose(1, 2)).cpu().numpy()
    sums = inside.sum(dim=2).cpu().numpy()
    counts = mask.sum(dim=1).cpu().numpy()
    axes = np.zeros((len(flags), 3, 2))
    for index, count in enumerate(counts):
        if not flags[index]:
            moments = np.concatenate([[count], sums[index], products[index][np.triu_indices(3)]])
            axes[index], flags[index] = principal_axes(moments, stains)
    matrices: list[Array] = [np.eye(stains, 3)] * len(flags)
    if settings.method == "macenko" and stains == 2:
        along = density.new_tensor(axes).transpose(1, 2) @ density
        angles = _percentiles(
            along[:, 1].atan2(along[:, 0]), mask, [settings.percentile, 100.0 - settings.percentile]
        )
        found = [vectors_at(row, plane) for row, plane in zip(angles, axes, strict=True)]
    else:
        found = [
            matrices[index]
            if flags[index]
            else _from_sample(planes[index], mask[index], white, settings, stains, initial)
            for index, white in enumerate(whites)
        ]
    for index, flag in enumerate(flags):
        if not flag:
            matrix, flags[index] = ordered(found[index], initial)
            matrices[index] = matrices[index] if flags[index] else matrix
    return matrices


def _concentrations(density: torch.Tensor, counted: torch.Tensor, matrices: list[Array]) -> Array:
    """Returns the 99th percentile of each stain's amount, (B, stains)."""
    weights = np.stack([np.linalg.pinv(matrix).T for matrix in matrices])
    amounts = density.new_tensor(weights) @ density
    found = [
        _percentiles(amounts[:, stain], counted, [CONCENTRATION_PERCENTILE])[:, 0]
        for stain in range(weights.shape[1])
    ]
    return np.stack(found, axis=1)


def _from_sample(
    planes: torch.Tensor,
    mask: torch.Tensor,
    white: Vector,
    settings: Stain,
    stains: int,
    initial: tuple[Vector, ...] | None,
) -> Array:
    import torch

    members = mask.nonzero()[:, 0]
    chosen = members[torch.as_tensor(spaced(len(members)), device=planes.device)]
    sample = planes[:, chosen].T.cpu().numpy()
    return sampled_vectors(sample, settings, white, stains, initial)


def _percentiles(values: torch.Tensor, counted: torch.Tensor, percentiles: list[float]) -> Array:
    """Returns exact percentiles, (B, percentiles), of the values, (B, N), that count; 0 where none does."""
    import torch

    batch = values.shape[0]
    highest = values.masked_fill(~counted, -torch.inf).amax(dim=1, keepdim=True)
    lowest = values.masked_fill(~counted, torch.inf).amin(dim=1, keepdim=True)
    reach = (highest - lowest).clamp(min=1e-300)
    bins = ((values - lowest) / reach * (BINS - 2)).nan_to_num(0.0).clamp(0, BINS - 2).long() + 1
    bins = torch.where(counted, bins, 0)
    offsets = torch.arange(batch, device=values.device)[:, None] * BINS
    histogram = torch.bincount((bins + offsets).flatten(), minlength=batch * BINS).reshape(batch, BINS)
    up_to = histogram[:, 1:].cumsum(dim=1)
    counts = up_to[:, -1].tolist()
    wanted = [[rank for percent in percentiles for rank in ranks_of(percent, max(1, n))[:2]] for n in counts]
    ranks = torch.tensor(wanted, device=values.device)
    places = torch.searchsorted(up_to, ranks, right=True).clamp(max=BINS - 2)
    before = (ranks - torch.where(places > 0, up_to.gather(1, (places - 1).clamp(min=0)), 0)).tolist()
    found = np.zeros((batch, ranks.shape[1]))
    for column in range(ranks.shape[1]):
        members = bins == places[:, column : column + 1] + 1
        sizes = members.sum(dim=1).tolist()
        runs = np.split(values[members].cpu().numpy(), np.cumsum(sizes)[:-1])
        for row, run in enumerate(runs):
            found[row, column] = np.sort(run)[before[row][column]] if counts[row] else 0.0
    low, high = found[:, ::2], found[:, 1::2]
    shares = [[ranks_of(percent, max(1, n))[2] for percent in percentiles] for n in counts]
    between: Array = low + (high - low) * np.array(shares)
    return between


def _roots(planes: torch.Tensor) -> torch.Tensor:
    """Returns f(X / Xn), f(Y / Yn), f(Z / Zn), (B, 3, N), with CIE's f: a cube root with a linear foot."""
    tables = np.broadcast_to(linear_table(), (planes.shape[0], 3, 256))
    linear = _looked_up(planes, tables.copy())
    xyz = linear.new_tensor(TO_RELATIVE) @ linear
    return (xyz > EPSILON) * xyz.clamp(min=EPSILON) ** (1.0 / 3.0) + (xyz <= EPSILON) * (
        (KAPPA * xyz + 16.0) / 116.0
    )


def _lab_moments(planes: torch.Tensor, mask: torch.Tensor) -> Array:
    """Returns count, sums and sums of squares of CIELAB over tissue, (B, 7)."""
    import torch

    roots = _roots(planes)
    lab = roots.new_tensor(LAB_OF_ROOTS) @ roots
    lab[:, 0] -= 16.0
    lab = lab * mask[:, None]
    parts = [mask.sum(dim=1)[:, None].double(), lab.sum(dim=2), (lab * lab).sum(dim=2)]
    moments: Array = torch.cat(parts, dim=1).cpu().numpy()
    return moments


def _rebuild(planes: torch.Tensor, pairs: Sequence[tuple[StainProfile, StainProfile]]) -> torch.Tensor:
    factors = np.stack([level_factors(source, target) for source, target in pairs])
    result = _looked_up(planes[:, :1].expand_as(planes), factors[:, :, 0])
    for channel in (1, 2):
        one = planes[:, channel : channel + 1].expand_as(planes)
        result = result * _looked_up(one, factors[:, :, channel])
    # Less one, the inverse of I + 1; plus a half, for rounding by truncation.
    return (result - 0.5).clamp(0.0, 255.0).byte()


def _match_lab(planes: torch.Tensor, pairs: Sequence[tuple[StainProfile, StainProfile]]) -> torch.Tensor:
    import torch

    roots = _roots(planes)
    mapping = [lab_mapping(source, target) for source, target in pairs]
    mix = roots.new_tensor(np.stack([matrix for matrix, _ in mapping]))
    offset = roots.new_tensor(np.stack([shift for _, shift in mapping]))[:, :, None]
    fades = np.stack([fade_table(source.background) for source, _ in pairs])
    share = _looked_up(planes, fades).sum(dim=1, keepdim=True).clamp(0.0, 1.0)
    roots = roots + share * (mix @ roots + offset - roots)
    cubes = roots**3
    xyz = torch.where(cubes > EPSILON, cubes, (116.0 * roots - 16.0) / KAPPA)
    linear = (xyz.new_tensor(FROM_RELATIVE) @ xyz).clamp(0.0, 1.0)
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1.0 / 2.4) - 0.055
    encoded = torch.where(linear > 0.0031308, curve, 12.92 * linear)
    return (encoded * 255.0 + 0.5).byte()
