"""Ingestion and cropping against bare decoding of the same pixels by the same library.

Three things are shown:

1. Memory: a pyramid (60,000 x 60,000 px with --full) of JPEG tiles is written tile by tile, then 50
   glomeruli are ingested and cropped from it in a process of its own, through tifffile and through
   OpenSlide; its peak resident memory has to stay below 700 MB.
2. Speed: ingestion of fields (JPEG, PNG, TIFF) and cropping from the pyramid, each alternating with the
   bare decoding of the same pixels; the share of its speed that is reached, of wall time and of processor
   time, both by one thread. Ingestion cannot do without the digest of the file: its share of the time that
   reading, digest and decoding take together is printed beside. Of uncompressed files, whose decoding is a
   copy, only that one says something.
3. Scaling: the same ingestion in one process and in two.

Run with: python benchmarks/ingest_crop.py [--full] [--edge 12000] [--images 40] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from glomflow.config import GlomerulusCrops, Ingest, Stain
from glomflow.image_parts import image_digest
from glomflow.imaging.glomeruli import crop_glomeruli_shard
from glomflow.imaging.inventory import ingest_shard
from glomflow.imaging.readers.tiff import TiffReader
from glomflow.imaging.readers.wsi import SlideReader
from glomflow.imaging.stain import StainProfile
from glomflow.tables import IMAGES, STAIN_PROFILES

TILE = 512
LIMIT_MB = 700
TARGET_SHARE = 0.70
UM_PER_PX = 0.25
GLOMERULI = 50
GLOMERULUS_UM = 180.0


def tissue(seed: int, height: int, width: int) -> np.ndarray:
    """Draws stained texture, (height, width, 3) uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.gamma(1.2, 0.5, (height // 16 + 1, width // 16 + 1, 2))
    amounts = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width]
    amounts = amounts * generator.uniform(0.7, 1.3, (height, width, 1))
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    return np.clip(240.0 * np.exp(-density), 0, 255).astype(np.uint8)


def write_pyramid(path: Path, edge: int) -> None:
    """Writes a tiled JPEG pyramid; few different tiles are encoded once and laid out at random."""
    encoded = [
        imagecodecs.jpeg8_encode(tissue(seed, TILE, TILE), level=85, subsampling="420") for seed in range(24)
    ]
    spacing = 1e4 / UM_PER_PX

    def tiles(count: int, seed: int) -> Iterator[bytes]:
        picks = np.random.default_rng(seed).integers(0, len(encoded), count)
        return (encoded[pick] for pick in picks)

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, size in enumerate(pyramid_edges(edge)):
            writer.write(
                tiles((-(-size // TILE)) ** 2, level),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=int(level > 0),
                resolution=(spacing / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def pyramid_edges(edge: int) -> list[int]:
    edges = [edge]
    while edges[-1] > 1024:
        edges.append(edges[-1] // 2)
    return edges


def write_outlines(path: Path, edge: int) -> None:
    """Writes circles of a glomerulus' size at random places as GeoJSON."""
    generator = np.random.default_rng(1)
    radius = GLOMERULUS_UM / 2 / UM_PER_PX
    angles = np.linspace(0, 2 * np.pi, 40)
    features = []
    for x, y in generator.uniform(2 * radius, edge - 2 * radius, (GLOMERULI, 2)):
        ring = np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)]).round(1).tolist()
        geometry = {"type": "Polygon", "coordinates": [[*ring[:-1], ring[0]]]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def sheet(paths: list[str], annotation: str = "", kind: str = "crop", modality: str = "OM") -> pd.DataFrame:
    blank: dict[str, Any] = {"string": "", "int64": 0, "float64": float("nan"), "bool": False}
    rows = [
        {name: blank[column.dtype] for name, column in IMAGES.items()}
        | {"image": Path(path).stem, "patient": "p", "modality": modality, "path": path, "slide": "s"}
        | {"annotation": annotation, "kind": kind, "um_per_px": UM_PER_PX, "stain": "PAS"}
        for path in paths
    ]
    return pd.DataFrame(rows)


def ingest(folder: Path, images: pd.DataFrame) -> pd.DataFrame:
    """Ingests images; thumbnails go beside the files, so that their removal is not timed."""
    frame = ingest_shard(
        images,
        folder,
        Ingest(),
        allow_anisotropic=False,
        thumbnails=folder / "thumbnails" / "0",
        shard=0,
    )
    bad = frame[frame["status"] != "ok"]
    if len(bad):
        raise SystemExit(f"an image was refused: {bad.iloc[0]['reason']}")
    return frame


def crop(folder: Path, inventory: pd.DataFrame, images: pd.DataFrame) -> np.ndarray:
    """Cuts all glomeruli without stain normalisation, which other benchmarks time."""
    blank: dict[str, Any] = {"string": "", "int64": 0}
    profiles = pd.DataFrame([{n: blank[c.dtype] for n, c in STAIN_PROFILES.items()}])
    profiles = profiles.assign(slide="s", method="none", flag="", background="[255.0, 255.0, 255.0]")
    target = {"PAS": StainProfile(slide="", method="none")}
    stain = Stain(method="none")
    return crop_glomeruli_shard(inventory, images, profiles, target, folder, GlomerulusCrops(), stain)[0]


def peak_of_child(folder: Path, name: str) -> dict[str, Any]:
    """Runs ingestion and cropping in a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder / name)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def child(path: Path) -> None:
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    images = sheet([path.name], annotation="outlines.geojson", kind="field")
    start = time.perf_counter()
    inventory = ingest(path.parent, images)
    ingested = time.perf_counter()
    crops = crop(path.parent, inventory, images)
    done = time.perf_counter()
    result = {
        "reader": inventory["reader"].iloc[0],
        "levels": int(inventory["levels"].iloc[0]),
        "crops": len(crops),
        "imports_mb": baseline,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ingest_s": ingested - start,
        "crop_s": done - ingested,
    }
    print(json.dumps(result))


def memory(folder: Path, edge: int) -> bool:
    print(f"1. Memory: {edge} x {edge} px, levels {pyramid_edges(edge)}")
    start = time.perf_counter()
    write_pyramid(folder / "pyramid.tif", edge)
    write_outlines(folder / "outlines.geojson", edge)
    size = (folder / "pyramid.tif").stat().st_size / 1e6
    print(f"  written in {time.perf_counter() - start:.0f} s, {size:.0f} MB")
    # By the suffix, OpenSlide reads it instead of tifffile.
    (folder / "pyramid.svslide").symlink_to(folder / "pyramid.tif")
    good = True
    for name in ("pyramid.tif", "pyramid.svslide"):
        found = peak_of_child(folder, name)
        good &= found["peak_mb"] < LIMIT_MB and found["crops"] == GLOMERULI
        print(
            f"  {found['reader']}: {found['crops']} crops, peak {found['peak_mb']:.0f} MB (limit {LIMIT_MB}, "
            f"after the imports {found['imports_mb']:.0f}); ingestion {found['ingest_s']:.2f} s (digest "
            f"included), cropping {found['crop_s']:.2f} s"
        )
    return good


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def both_times(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns wall time and processor time (of all threads), s."""
    start = time.process_time()
    wall = timed(call)
    return wall, time.process_time() - start


def alternate(
    name: str,
    ours: Callable[[], Any],
    bare: Callable[[], Any],
    images: int,
    megabytes: float,
    repeats: int,
    least: Callable[[], Any] | None = None,
) -> None:
    """Times two ways by turns; ``least`` is what the first cannot do without beside the second."""
    ways = [ours, bare, least or bare]
    for way in ways:
        way()  # compiled loops are loaded, and files read from the disk, before anything is timed
    seconds = np.array([[both_times(way) for way in ways] for _ in range(repeats)])
    (own, other, _), (own_cpu, other_cpu, least_cpu) = np.median(seconds, axis=0).T
    quickest = seconds.min(axis=0)
    line = (
        f"  {name}: {images / own:.1f}/s and {megabytes / own:.0f} MB/s; bare decoding "
        f"{images / other:.1f}/s and {megabytes / other:.0f} MB/s; share {other / own:.0%} "
        f"(target {TARGET_SHARE:.0%}), of the shortest times {quickest[1, 0] / quickest[0, 0]:.0%}, of "
        f"processor time {other_cpu / own_cpu:.0%}"
    )
    if least is not None:
        line += (
            f"; of reading, digest and decoding {(least_cpu + other_cpu) / own_cpu:.0%}, shortest "
            f"{(quickest[1, 1] + quickest[2, 1]) / quickest[0, 1]:.0%} (processor time)"
        )
    print(line)


def write_fields(folder: Path, count: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"JPEG": [], "PNG": [], "TIFF (LZW)": [], "TIFF, 16-bit gray": []}
    for index in range(count):
        rgb = tissue(100 + index, 1024, 1360)
        Image.fromarray(rgb).save(folder / f"f{index}.jpg", quality=92)
        Image.fromarray(rgb).save(folder / f"g{index}.png")
        tifffile.imwrite(folder / f"h{index}.tif", rgb, photometric="rgb", compression="lzw", rowsperstrip=64)
        gray = rgb[:, :, 1].astype(np.uint16) * 200
        tifffile.imwrite(folder / f"k{index}.tif", gray, photometric="minisblack")
        for key, name in zip(
            names, (f"f{index}.jpg", f"g{index}.png", f"h{index}.tif", f"k{index}.tif"), strict=True
        ):
            names[key].append(name)
    return names


def decode_bare(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix == ".tif":
            tifffile.imread(path)
        else:
            with Image.open(path) as image:
                np.asarray(image)


def digest_bare(paths: list[Path]) -> None:
    for path in paths:
        image_digest(path)


def ingestion_speed(folder: Path, count: int, repeats: int) -> None:
    print("2. Speed (median of alternating runs)")
    for name, files in write_fields(folder, count).items():
        modality = "TEM" if "gray" in name else "OM"
        images = sheet(files, modality=modality)
        if modality == "TEM":
            images = images.assign(um_per_px=float("nan"), nm_per_px=2.0)
        paths = [folder / file for file in files]
        megabytes = count * 1360 * 1024 * (2 if modality == "TEM" else 3) / 1e6
        alternate(
            f"ingestion, {name}",
            lambda: ingest(folder, images),  # noqa: B023
            lambda: decode_bare(paths),  # noqa: B023
            count,
            megabytes,
            repeats,
            lambda: digest_bare(paths),  # noqa: B023
        )


def crops_against_bare(path: Path, kind: Callable[[Path], Any], name: str, repeats: int) -> None:
    """Times regions of glomeruli, read at 1 µm/px, against decoding the same tiles or boxes bare."""
    settings = GlomerulusCrops()
    side = GLOMERULUS_UM * (1 + 2 * settings.margin) / UM_PER_PX
    side = max(side, settings.size * settings.um_per_px / UM_PER_PX)
    for shrink in (1.0, side / settings.size, 1.6):
        crop_sizes_against_bare(path, kind, name, side, round(side / shrink), repeats)


def crop_sizes_against_bare(
    path: Path, kind: Callable[[Path], Any], name: str, side: float, size: int, repeats: int
) -> None:
    with kind(path) as probe:
        level = probe.level_for(side / size)
        factor = probe.level_scale(level)[0]
        corners = np.random.default_rng(2).uniform(0, probe.width - side, (GLOMERULI, 2))
    boxes = np.column_stack([corners, corners + side]) / factor

    def ours() -> None:
        with kind(path) as reader:
            for x, y in corners:
                reader.read_region(x, y, side, side, size, size)

    def bare() -> None:
        if name == "OpenSlide":
            decode_boxes(path, level, factor, boxes)
        else:
            decode_tiles(path, level, boxes)

    megabytes = GLOMERULI * (side / factor) ** 2 * 3 / 1e6
    label = f"cropping, {name}, {side:.0f} px to {size} px (level {level})"
    alternate(label, ours, bare, GLOMERULI, megabytes, repeats)


def decode_tiles(path: Path, level: int, boxes: np.ndarray) -> None:
    """Decodes the tiles that the boxes touch, as tifffile does it, and nothing else."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level].aspage()
        decode = page.decode
        across = -(-page.imagewidth // TILE)
        for left, top, right, bottom in boxes:
            for row in range(int(top) // TILE, int(bottom) // TILE + 1):
                for column in range(int(left) // TILE, int(right) // TILE + 1):
                    index = row * across + column
                    file.filehandle.seek(page.dataoffsets[index])
                    decode(file.filehandle.read(page.databytecounts[index]), index)


def decode_boxes(path: Path, level: int, factor: float, boxes: np.ndarray) -> None:
    import openslide

    with openslide.OpenSlide(path) as slide:
        for left, top, right, bottom in boxes:
            size = int(right) + 1 - int(left), int(bottom) + 1 - int(top)
            corner = int(left * factor), int(top * factor)
            np.asarray(slide.read_region(corner, level, size))


def _ingest_part(folder: str, files: list[str]) -> None:
    ingest(Path(folder), sheet(files))


def scaling(folder: Path, count: int, repeats: int) -> None:
    print("3. Scaling of ingestion (JPEG)")
    files = [f"f{index}.jpg" for index in range(count)]
    seconds = {}
    for processes in (1, 2):
        parts = [files[index::processes] for index in range(processes)]
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_ingest_part, [str(folder)] * processes, [files[:1]] * processes))  # warm
            runs = [
                timed(lambda: list(pool.map(_ingest_part, [str(folder)] * processes, parts)))  # noqa: B023
                for _ in range(repeats)
            ]
        seconds[processes] = float(np.median(runs))
        print(f"  {processes} process(es): {count / seconds[processes]:.1f} images/s")
    print(f"  1 -> 2 processes: {seconds[1] / seconds[2]:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingestion and cropping against bare decoding.")
    parser.add_argument("--full", action="store_true", help="60,000 px, 100 images, 5 repeats")
    parser.add_argument("--edge", type=int, default=12_000, help="edge of the pyramid, px")
    parser.add_argument("--images", type=int, default=20, help="fields of each format")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-ingestion", action="store_true", help="only the speed of ingestion")
    parser.add_argument("--folder", type=Path, default=None, help="where files are written for the run")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child)
        return
    edge, count, repeats = arguments.edge, arguments.images, arguments.repeats
    if arguments.full:
        edge, count, repeats = 60_000, 100, 5
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="glomflow-", dir=arguments.folder))
    try:
        good = arguments.only_ingestion or memory(folder, edge)
        ingestion_speed(folder, count, repeats)
        if not arguments.only_ingestion:
            for reader, name in ((TiffReader, "tifffile"), (SlideReader, "OpenSlide")):
                crops_against_bare(folder / "pyramid.tif", reader, name, repeats)
            scaling(folder, count, repeats)
    finally:
        shutil.rmtree(folder)
    if not good:
        raise SystemExit(f"the peak is above {LIMIT_MB} MB or crops are missing")


if __name__ == "__main__":
    main()
