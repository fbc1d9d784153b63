"""Stain normalisation: glomflow against torchstain and tiatoolbox, alternating in one process.

Every tool estimates the colours of one image and maps them to a target that was fitted beforehand. The
tools take turns: each waits for 0.3 s, in which threads of the tool before stop spinning for work, runs
unmeasured for 50 ms, so that the processor is awake and its caches are warm, and is measured nine times.
The median over all turns is printed, and the peer's time over ours. Each tool is also held against its own
formula in float64, rounded or truncated as it does: the share of samples that differ, and the
largest difference in grey levels. A plain NumPy copy of the same bytes shows the limit that memory sets.
tiatoolbox's Macenko and torchstain's Macenko on NumPy are float64 themselves.

Run with: python benchmarks/stain_speed.py [--full] [image ...]
On a graphics card, with NumPy and PyTorch alone: python benchmarks/stain_speed.py --gpu
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from glomflow.imaging.stain import (
    StainProfile,
    estimate_background,
    estimate_profile,
    normalise_image,
    tissue_mask,
)

WANTED = {"torchstain": 5.0, "tiatoolbox": 3.0}
"""Times that a peer's faster backend may be slower, at least."""
PAUSE = 0.3
"""Seconds between two tools: OpenMP and BLAS threads of the first may keep a core busy for 0.2 s."""
WARM_UP = 0.05
"""Seconds of unmeasured runs at the start of a turn, one run at least."""
RUNS = 9
"""Measured runs per turn."""
WANTED_TILES = 3500.0
"""Tiles of 256 px per second on a graphics card."""
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)
TO_RELATIVE = TO_XYZ / TO_XYZ.sum(axis=1)[:, None]
FROM_ROOTS = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
LIGHTNESS_SHIFT = np.array([-16.0, 0.0, 0.0])
Image = np.ndarray[Any, Any]


@dataclass
class Tool:
    """A normaliser fitted to the target: ``run`` maps an image, ``exact`` is its formula in float64."""

    name: str
    run: Callable[[Image], Any]
    exact: Callable[[Image], Image] | None = None


def settings(method: str) -> Any:
    # As glomflow.config.Stain, which a machine with NumPy and PyTorch alone cannot import.
    return SimpleNamespace(method=method, tissue_od=0.15, percentile=1.0, min_tissue_pixels=200)


def synthetic_field(seed: int, edge: int) -> Image:
    """Draws an H&E-like field of cells and glass, (edge, edge, 3) uint8, for a machine without images."""
    generator = np.random.default_rng(seed)
    cells = -(-edge // 8)
    coarse = generator.gamma(1.5, 0.4, (cells, cells, 2)) * (generator.random((cells, cells, 1)) < 0.8)
    amounts = np.kron(coarse, np.ones((8, 8, 1)))[:edge, :edge] * generator.uniform(0.8, 1.2, (edge, edge, 1))
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    density += generator.normal(0, 0.02, (edge, edge, 3))
    return np.clip(240.0 * np.exp(-density), 0, 255).astype(np.uint8)


def exact_lab(rgb: Image) -> Image:
    levels = np.arange(256) / 255.0
    xyz = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)[rgb] @ TO_RELATIVE.T
    roots = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return roots @ FROM_ROOTS.T + LIGHTNESS_SHIFT


def exact_rgb(lab: Image) -> Image:
    roots = (lab - LIGHTNESS_SHIFT) @ np.linalg.inv(FROM_ROOTS).T
    xyz = np.where(roots**3 > 216 / 24389, roots**3, (116 * roots - 16) / (24389 / 27))
    linear = np.clip(xyz @ np.linalg.inv(TO_RELATIVE).T, 0.0, 1.0)
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return 255.0 * np.where(linear > 0.0031308, curve, 12.92 * linear)


def exact_macenko(rgb: Image, target: StainProfile) -> Image:
    white = np.array(estimate_background(rgb))
    mask = tissue_mask(rgb, tuple(white), 0.15)
    density = -np.log((rgb + 1.0) / white)
    tissue = density[mask]
    _, axes = np.linalg.eigh(np.cov(tissue.T))
    plane = axes[:, 1:] * np.sign(tissue.mean(axis=0) @ axes[:, 1:])
    across = tissue @ plane
    turns = np.percentile(np.arctan2(across[:, 1], across[:, 0]), [1.0, 99.0])
    vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ plane.T
    amounts = density @ np.linalg.pinv(vectors[np.argsort(-vectors[:, 0])])
    amounts *= np.array(target.concentrations) / np.percentile(amounts[mask], 99.0, axis=0)
    result = np.array(target.background) * np.exp(-amounts @ np.array(target.matrix)) - 1.0
    return np.floor(np.clip(result + 0.5, 0, 255))


def exact_reinhard(rgb: Image, target: StainProfile) -> Image:
    white = estimate_background(rgb)
    lab, mask = exact_lab(rgb), tissue_mask(rgb, white, 0.15)
    share = np.clip(-np.log((rgb + 1.0) / white).mean(axis=2, keepdims=True) / 0.15, 0.0, 1.0)
    moved = (lab - lab[mask].mean(axis=0)) / lab[mask].std(axis=0) * np.array(target.lab_std)
    return np.floor(exact_rgb(lab + share * (moved + np.array(target.lab_mean) - lab)) + 0.5)


def exact_peer_reinhard(rgb: Image, fitted_to: Image, half: float) -> Image:
    """Whole-image Reinhard in CIELAB, as both peers have it; ``half`` is 0.5 for rounding."""
    lab, wanted = exact_lab(rgb).reshape(-1, 3), exact_lab(fitted_to).reshape(-1, 3)
    moved = (lab - lab.mean(axis=0)) / lab.std(axis=0) * wanted.std(axis=0) + wanted.mean(axis=0)
    return np.floor(exact_rgb(moved) + half).reshape(rgb.shape)


def own_tool(method: str, target: Image, threads: int) -> Tool:
    chosen = settings(method)
    profile = estimate_profile(target, chosen)
    formula = exact_macenko if method == "macenko" else exact_reinhard
    return Tool(
        "glomflow",
        lambda rgb: normalise_image(rgb, profile, chosen, threads=threads)[0],
        lambda rgb: formula(rgb, profile),
    )


def torchstain_tools(method: str, target: Image) -> list[Tool]:
    try:
        import torch
        from torchstain.numpy.normalizers import macenko, reinhard
        from torchstain.torch.normalizers import macenko as torch_macenko
        from torchstain.torch.normalizers import reinhard as torch_reinhard
    except ImportError as error:
        print(f"torchstain is left out: {error}")
        return []

    def planes(rgb: Image) -> torch.Tensor:
        return torch.from_numpy(rgb).permute(2, 0, 1)

    if method == "reinhard":
        plain, deep = reinhard.NumpyReinhardNormalizer(), torch_reinhard.TorchReinhardNormalizer()
        plain.fit(target)
        deep.fit(planes(target))
        return [
            Tool("torchstain numpy", plain.normalize, lambda rgb: exact_peer_reinhard(rgb, target, 0.0)),
            Tool(
                "torchstain torch",
                lambda rgb: deep.normalize(planes(rgb)).numpy(),
                lambda rgb: exact_peer_reinhard(rgb, target, 0.0),
            ),
        ]
    plain, deep = macenko.NumpyMacenkoNormalizer(), torch_macenko.TorchMacenkoNormalizer()
    plain.fit(target)
    deep.fit(planes(target))
    exact = lambda rgb: plain.normalize(rgb, stains=False)[0]  # noqa: E731
    return [
        Tool("torchstain numpy", exact),
        Tool("torchstain torch", lambda rgb: deep.normalize(planes(rgb), stains=False)[0].numpy(), exact),
    ]


def tiatoolbox_tools(method: str, target: Image) -> list[Tool]:
    try:
        from glomflow.models.torchvision_compat import import_torchvision

        import_torchvision()
        from tiatoolbox.tools.stainnorm import get_normalizer
    except ImportError as error:
        print(f"tiatoolbox is left out: {error}")
        return []
    normaliser = get_normalizer(method)
    normaliser.fit(target.copy())
    exact = (lambda rgb: exact_peer_reinhard(rgb, target, 0.5)) if method == "reinhard" else None
    return [Tool("tiatoolbox", normaliser.transform, exact)]


def compare(method: str, name: str, rgb: Image, target: Image, repeats: int, threads: int) -> None:
    tools = [
        own_tool(method, target, threads),
        own_tool(method, target, 1),
        *torchstain_tools(method, target),
        *tiatoolbox_tools(method, target),
    ]
    tools[1].name = "glomflow, 1 thread"
    seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
    copies = []
    for _ in range(repeats):
        for tool in tools:
            time.sleep(PAUSE)
            awake = time.perf_counter() + WARM_UP
            while True:
                tool.run(rgb.copy())
                if time.perf_counter() > awake:
                    break
            for _ in range(RUNS):
                # tiatoolbox writes into its input; each run gets its own.
                own = rgb.copy()
                start = time.perf_counter()
                tool.run(own)
                seconds[tool.name].append(time.perf_counter() - start)
        start = time.perf_counter()
        rgb.copy()
        copies.append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    pixels = rgb.shape[0] * rgb.shape[1] / 1e6
    print(f"\n{method}, {name}, {rgb.shape[1]} x {rgb.shape[0]} px, {threads} threads")
    for tool in tools:
        taken = medians[tool.name]
        line = f"  {tool.name:20s} {taken * 1e3:8.2f} ms  {pixels / taken:7.1f} MPixel/s"
        if not tool.name.startswith("glomflow"):
            line += f"  {taken / medians['glomflow']:5.1f} x glomflow's time"
        if tool.exact:
            gap = np.abs(np.asarray(tool.run(rgb.copy())).astype(int) - tool.exact(rgb.copy()).astype(int))
            line += f"  off float64: {100 * (gap > 0).mean():.4f} % of samples, at most {gap.max()}"
        print(line)
    for peer, wanted in WANTED.items():
        theirs = [taken for key, taken in medians.items() if key.startswith(peer)]
        if theirs:
            ratio = min(theirs) / medians["glomflow"]
            print(f"  {ratio:.1f} x as fast as {peer}, at least {wanted:.0f} x is wanted")
    copy = statistics.median(copies)
    print(
        f"  per core {pixels / medians['glomflow, 1 thread']:.0f} MPixel/s; a NumPy copy of the same bytes: "
        f"{pixels / copy:.0f} MPixel/s"
    )


def tiles_per_second(device: str, tiles: int, repeats: int) -> None:
    import torch

    from glomflow.imaging.stain.torch_backend import estimate_batch, normalise_batch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    fields = np.stack([synthetic_field(seed, 256) for seed in range(min(tiles, 16))])
    batch = torch.from_numpy(np.resize(fields, (tiles, 256, 256, 3))).to(device)
    print(f"\n{tiles} tiles of 256 px in PyTorch {torch.__version__} on {device} ({name})")
    for method in ("macenko", "reinhard"):
        chosen = settings(method)
        target = estimate_profile_of(fields[0], chosen)
        sources = estimate_batch(batch, chosen)
        steps = {
            "transform": lambda: normalise_batch(batch, sources, target),  # noqa: B023
            "estimate and transform": lambda: normalise_batch(batch, estimate_batch(batch, chosen), target),  # noqa: B023
        }
        for step, call in steps.items():
            call()
            taken = []
            for _ in range(repeats):
                wait()
                start = time.perf_counter()
                call()
                wait()
                taken.append(time.perf_counter() - start)
            rate = tiles / statistics.median(taken)
            print(f"  {method}, {step}: {rate:.0f} tiles/s ({WANTED_TILES:.0f} are wanted on a card)")


def estimate_profile_of(rgb: Image, chosen: Any) -> StainProfile:
    import torch

    from glomflow.imaging.stain.torch_backend import estimate_batch

    return estimate_batch(torch.from_numpy(rgb[None].copy()), chosen)[0]


def read(path: Path) -> Image:
    from PIL import Image as Pictures

    return np.asarray(Pictures.open(path).convert("RGB"))


def cut(rgb: Image, edge: int) -> Image:
    """Returns the upper left corner, the image being repeated by reflection where it is too small."""
    grow = [(0, max(0, edge - rgb.shape[0])), (0, max(0, edge - rgb.shape[1])), (0, 0)]
    return np.ascontiguousarray(np.pad(rgb, grow, mode="symmetric")[:edge, :edge])


def first_call() -> None:
    start = time.perf_counter()
    from glomflow.imaging.stain import kernels  # noqa: F401

    loaded = time.perf_counter() - start
    field = synthetic_field(0, 64)
    for method in ("macenko", "reinhard"):
        own_tool(method, field, 1).run(field)
    first = time.perf_counter() - start - loaded
    print(f"import of the compiled loops {loaded:.2f} s, first calls {first:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help="8-bit images; a synthetic field by default")
    parser.add_argument("--full", action="store_true", help="all three sizes and 9 turns")
    parser.add_argument("--repeats", type=int, help="turns per tool, of nine runs each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="only tiles per second in PyTorch")
    parser.add_argument("--tiles", type=int, help="tiles per batch with --gpu")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (9 if arguments.full else 5)
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    if arguments.gpu:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            print("no CUDA device; the processor stands in, and the figure wanted does not apply")
        tiles_per_second(device, arguments.tiles or (256 if device == "cuda" else 8), repeats)
        return
    first_call()
    try:
        import torch

        torch.set_num_threads(arguments.threads)
    except ImportError:
        print("PyTorch is not installed")
    for edge in (224, 512, 1024) if arguments.full else (224, 512):
        fields = {path.name: cut(read(path), edge) for path in arguments.images}
        for name, rgb in (fields or {"synthetic field": synthetic_field(0, edge)}).items():
            for method in ("macenko", "reinhard"):
                compare(method, name, rgb, synthetic_field(1, 512), repeats, arguments.threads)


if __name__ == "__main__":
    main()
