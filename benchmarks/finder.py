"""How well are glomeruli found on slides that the finder has not seen, and what would blobs do?

Trains the finder fold by fold on annotated fields, tests it on fields of other slides, and prints
average precision, Dice, counts and seconds per field with intervals over slides, beside those of a
classical detector (blobs of a stain's density, tuned on the same training fields) on the same pixels,
and the paired differences. With --random-encoder also a finder that starts from nothing.

    python benchmarks/finder.py                      # real fields, reduced training
    python benchmarks/finder.py --steps 1500 --um-per-px 2 --patch 256 --threads 2
    python benchmarks/finder.py --phantom 60         # drawn fields instead

The real fields, and what is assumed of them:

- hubmap_tiles: 12 PAS fields of two slides, named before the underscore. "red16" is taken for a scan at
  0.5 µm/px reduced 16 times: 8 µm/px (their glomeruli then measure 130 µm).
- ihc_rois: 5 immunohistochemistry fields of one slide (one rat, one section in all names). The burnt-in
  bar of 100 µm is 150 px long, and the names say 15x: 0.667 µm/px. Glomeruli that the border cuts were
  not outlined: they do not count, and training takes them for background.
- structures: 20 fields of 256 px in H&E, PAS, silver and trichrome. Their number is taken for their
  slide; whole capsules span about 100 px, hence 2 µm/px. Some fields may lie on one slide: their stains
  have 5 numbers each, next to one another.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
REAL = REPO.parent / "shared" / "data" / "real"
DATA = ("hubmap_tiles", "ihc_rois", "structures")
SHOWN = ("ap50", "ap", "dice", "precision", "recall", "count_bias", "count_concordance")
HEADS = ("AP@.5", "AP@.5:.95", "Dice", "precision", "recall", "found - annotated", "concordance")


@dataclass(frozen=True)
class Case:
    """An annotated field.

    Attributes:
        data: Data set.
        image: Identifier.
        slide: Slide, which is taken for the patient as well.
        rgb: (H, W, 3) uint8.
        um_per_px: Pixel size, µm/px.
        polygons: (K, 2) x and y of every glomerulus, px.
        border: What becomes of glomeruli cut by the border.
    """

    data: str
    image: str
    slide: str
    rgb: np.ndarray
    um_per_px: float
    polygons: list[np.ndarray]
    border: str = "count"


@dataclass
class Run:
    """What a finder did on every field, and how long it took.

    Attributes:
        found: Image to outlines and scores.
        seconds: Seconds per searched field.
        training: Seconds per training.
    """

    found: dict[str, tuple[list[np.ndarray], list[float]]]
    seconds: list[float]
    training: list[float]


def mask_case(data: str, path: Path, mask: Path, slide: str, um_per_px: float) -> Case:
    from glomflow.errors import ImageError
    from glomflow.imaging.annotations import read_outlines

    rgb = np.asarray(Image.open(path).convert("RGB"))
    binary = np.asarray(Image.open(mask).convert("L")) > 0
    polygons: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "mask.png"
        Image.fromarray(binary.astype(np.uint8) * 255).save(plain)
        try:
            outlines = read_outlines(plain, image_size=(rgb.shape[1], rgb.shape[0]))
        except ImageError:
            if binary.any():
                raise
            outlines = []
        polygons = [outline.polygon for outline in outlines]
    return Case(data, f"{data}/{path.stem}", f"{data}/{slide}", rgb, um_per_px, polygons)


def real_cases(folder: Path) -> list[Case]:
    from glomflow.imaging.annotations import read_outlines

    cases = []
    for path in sorted((folder / "hubmap_tiles" / "images").glob("*.png")):
        mask = folder / "hubmap_tiles" / "masks" / path.name
        cases.append(mask_case("hubmap_tiles", path, mask, path.stem.split("_")[0], 8.0))
    for path in sorted((folder / "structures" / "2_0_capsule").glob("*/*_0.png")):
        mask = path.with_name(f"{path.stem}_mask_capsule.png")
        cases.append(mask_case("structures", path, mask, path.stem, 2.0))
    for path in sorted((folder / "ihc_rois").glob("*.jpg")):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        rois = folder / "ihc_rois" / f"RoiSetR22{path.stem[-2:]}.zip"
        outlines = read_outlines(rois, image_size=(rgb.shape[1], rgb.shape[0]))
        polygons = [outline.polygon for outline in outlines]
        cases.append(Case("ihc_rois", path.stem, "ihc_rois/R22", rgb, 100 / 150, polygons, "ignore"))
    return cases


def phantom_cases(count: int, seed: int) -> list[Case]:
    from glomflow.cohort.phantom.om import draw_field
    from glomflow.cohort.phantom.sites import SITES
    from glomflow.cohort.phantom.tuft import SHAPES

    cases = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        site = SITES[(number // 2) % len(SITES)]
        lesions = sorted(SHAPES)
        drawn = draw_field(
            rng, site, "nondiagnostic", [str(name) for name in rng.choice(lesions, int(rng.integers(2, 9)))]
        )
        polygons = [np.asarray(outline, dtype=np.float64) for outline in drawn.outlines]
        slide = f"slide{number // 2:04d}"
        cases.append(Case("phantom", f"field{number:04d}", slide, drawn.rgb, site.om_um_per_px, polygons))
    return cases


def chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    if arguments.phantom:
        cases = phantom_cases(arguments.phantom, arguments.seed)
    else:
        cases = [case for case in real_cases(arguments.real) if case.data in arguments.data]
    if arguments.within_slides:
        cases = [replace(case, slide=case.image) for case in cases]
    return cases


def folds_of(cases: Sequence[Case], n_splits: int, seed: int) -> pd.DataFrame:
    from glomflow.cohort.finder_folds import check_finder_folds, finder_folds

    fields = pd.DataFrame(
        [{"image": case.image, "patient": case.slide, "slide": case.slide} for case in cases]
    )
    folds = finder_folds(fields, n_splits=n_splits, validation_fraction=0.15, seed=seed)
    check_finder_folds(folds, fields)
    return folds[folds["fold"] != "all"]


def trained_finder(cases: Sequence[Case], folds: pd.DataFrame, settings, seed: int, threads: int) -> Run:
    """Trains and applies the finder fold by fold."""
    from glomflow.imaging.annotations import Outline
    from glomflow.training.finder_fit import train_finder
    from glomflow.training.finder_models import load_finder
    from glomflow.training.finder_predict import find
    from glomflow.training.finder_types import FinderField, FinderFiles
    from glomflow.training.seeds import deterministic

    run = Run({}, [], [])
    fields = {
        case.image: FinderField(
            case.image, case.rgb, case.um_per_px, tuple(Outline(polygon) for polygon in case.polygons)
        )
        for case in cases
    }
    for fold, rows in folds.groupby("fold"):
        parts = {split: [fields[image] for image in own["image"]] for split, own in rows.groupby("split")}
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            files = FinderFiles(
                root / "finder.safetensors", root / "finder.json", root / "history.parquet", root / "state.pt"
            )
            start = time.perf_counter()
            train_finder(
                parts["train"], parts.get("validation", []), settings, files, seed=seed, threads=threads
            )
            run.training.append(time.perf_counter() - start)
            history = pd.read_parquet(files.history).iloc[-1]
            print(
                f"    fold {fold}: {len(parts['train'])} training fields, {int(history['step'])} steps in "
                f"{run.training[-1]:.0f} s, validation Dice {history['validation_dice']:.2f}",
                flush=True,
            )
            with deterministic(threads):
                model = load_finder(settings, files.weights, files.description, threads=threads)
                for field in parts["test"]:
                    start = time.perf_counter()
                    found = find(field.source, field.um_per_px, model, settings)
                    run.seconds.append(time.perf_counter() - start)
                    run.found[field.image] = (
                        [each.polygon for each in found],
                        [each.score for each in found],
                    )
    return run


class Blobs:
    """A classical detector: blobs of a stain's density, by the Laplacian of Gaussians.

    The stain (haematoxylin, mean optical density or its local spread), its sign, the least response and
    the size of the circles are chosen on training fields, by F1 at IoU 0.5.
    """

    um_per_px = 4.0
    diameters_um = np.geomspace(80.0, 280.0, 9)
    features = ("haematoxylin", "density", "spread")
    growths = (0.9, 1.1, 1.3)

    def __init__(self) -> None:
        self.kind, self.sign, self.least, self.growth = "density", 1.0, 0.0, 1.0
        self._responses: dict[tuple[str, str, float], tuple[np.ndarray, np.ndarray]] = {}

    def fit(self, cases: Sequence[Case]) -> float:
        """Chooses the settings; returns the F1 that they have on the training fields."""
        best = -1.0
        for kind in self.features:
            for sign in (1.0, -1.0):
                found = [self.candidates(case, kind, sign) for case in cases]
                responses = np.concatenate([scores for _, scores in found])
                if not len(responses):
                    continue
                for growth in self.growths:
                    for least in np.quantile(responses, np.linspace(0.3, 0.98, 12)):
                        score = self._f1(cases, found, growth, float(least))
                        if score > best:
                            best = score
                            self.kind, self.sign, self.growth, self.least = kind, sign, growth, float(least)
        return best

    def find(self, case: Case) -> tuple[list[np.ndarray], list[float]]:
        """Returns outlines and scores."""
        circles, scores = self.candidates(case, self.kind, self.sign, keep=False)
        kept = scores >= self.least
        return [circle_polygon(*circle, self.growth) for circle in circles[kept]], scores[kept].tolist()

    def candidates(self, case: Case, kind: str, sign: float, *, keep: bool = True):
        """Returns circles (x, y, radius, px of the image) and responses, the strongest first."""
        key = (case.image, kind, sign)
        if key in self._responses:
            return self._responses[key]
        result = self._search(case, kind, sign)
        if keep:
            self._responses[key] = result
        return result

    def _search(self, case: Case, kind: str, sign: float) -> tuple[np.ndarray, np.ndarray]:
        from scipy.ndimage import gaussian_laplace
        from skimage.feature import peak_local_max

        step = self.um_per_px / case.um_per_px
        size = max(8, round(case.rgb.shape[1] / step)), max(8, round(case.rgb.shape[0] / step))
        small = np.asarray(Image.fromarray(case.rgb).resize(size, Image.Resampling.BOX))
        values = sign * self._feature(small, kind)
        radii = self.diameters_um / 2 / self.um_per_px
        stack = np.stack([-(r**2 / 2) * gaussian_laplace(values, r / np.sqrt(2)) for r in radii])
        peaks = peak_local_max(stack, min_distance=3, threshold_abs=1e-6, exclude_border=False)
        scores = stack[tuple(peaks.T)]
        order = np.argsort(-scores, kind="stable")
        circles = np.stack([peaks[:, 2] + 0.5, peaks[:, 1] + 0.5, radii[peaks[:, 0]]], axis=1)[order] * step
        kept: list[int] = []
        for place, (x, y, radius) in enumerate(circles):
            others = circles[kept]
            gap = np.hypot(others[:, 0] - x, others[:, 1] - y)
            if not (gap < 0.8 * np.maximum(others[:, 2], radius)).any():
                kept.append(place)
        return circles[kept], scores[order][kept]

    def _feature(self, rgb: np.ndarray, kind: str) -> np.ndarray:
        """Returns the stain in robust standard deviations of the field's tissue; glass is 0."""
        from scipy.ndimage import gaussian_filter
        from skimage.color import rgb2hed

        density = -np.log((rgb.astype(np.float64) + 1.0) / 256.0).mean(axis=2)
        values = density
        if kind == "haematoxylin":
            values = rgb2hed(rgb)[:, :, 0]
        elif kind == "spread":
            mean = gaussian_filter(density, 3.0)
            values = np.sqrt(np.maximum(gaussian_filter(density**2, 3.0) - mean**2, 0.0))
        tissue = (gaussian_filter(density, 4.0) > 0.15) & (density < 3.0)
        if tissue.sum() < 100:
            return np.zeros_like(values)
        middle = np.median(values[tissue])
        spread = 1.4826 * np.median(np.abs(values[tissue] - middle))
        return np.where(tissue, np.clip((values - middle) / max(spread, 1e-6), -6, 6), 0.0)

    def _f1(self, cases: Sequence[Case], found, growth: float, least: float) -> float:
        hits = finds = truths = 0
        for case, (circles, scores) in zip(cases, found, strict=True):
            own = circles[scores >= least] * [1, 1, growth]
            right = circle_hits(own, case)
            hits, finds, truths = hits + right, finds + len(own), truths + len(case.polygons)
        return 2 * hits / max(finds + truths, 1)


def circle_polygon(x: float, y: float, radius: float, growth: float = 1.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + growth * radius * np.cos(angle), y + growth * radius * np.sin(angle)], axis=1)


def circle_hits(circles: np.ndarray, case: Case) -> int:
    """Counts annotated glomeruli that a circle overlaps by half, both taken for circles."""
    hits = 0
    for polygon in case.polygons:
        centre, extent = (polygon.min(axis=0) + polygon.max(axis=0)) / 2, np.ptp(polygon, axis=0)
        radius = float(extent.mean()) / 2
        gap = np.hypot(circles[:, 0] - centre[0], circles[:, 1] - centre[1])
        small, large = np.minimum(circles[:, 2], radius), np.maximum(circles[:, 2], radius)
        # Circles of radii r <= R at a distance d overlap by at least half about where this holds.
        hits += bool(((small / large) ** 2 * np.clip(1 - 0.75 * gap / small, 0, 1) >= 0.5).any())
    return hits


def blobs(cases: Sequence[Case], folds: pd.DataFrame) -> Run:
    run = Run({}, [], [])
    known = {case.image: case for case in cases}
    cache = Blobs()
    for fold, rows in folds.groupby("fold"):
        detector = Blobs()
        detector._responses = cache._responses
        start = time.perf_counter()
        score = detector.fit([known[image] for image in rows.loc[rows["split"] != "test", "image"]])
        run.training.append(time.perf_counter() - start)
        sign = "dark" if detector.sign > 0 else "pale"
        print(f"    fold {fold}: {sign} blobs of {detector.kind}, F1 {score:.2f} on training fields")
        for image in rows.loc[rows["split"] == "test", "image"]:
            detector._responses = {}
            start = time.perf_counter()
            run.found[image] = detector.find(known[image])
            run.seconds.append(time.perf_counter() - start)
    return run


def detections(cases: Sequence[Case], folds: pd.DataFrame, run: Run):
    from glomflow.evaluation.detection import FieldDetections

    tests = folds[folds["split"] == "test"].set_index("image")["fold"]
    return [
        FieldDetections(
            image=case.image,
            patient=case.slide,
            slide=case.slide,
            fold=tests[case.image],
            width=case.rgb.shape[1],
            height=case.rgb.shape[0],
            um_per_px=case.um_per_px,
            annotated=case.polygons,
            found=run.found[case.image][0],
            scores=run.found[case.image][1],
        )
        for case in cases
    ]


def report(cases: Sequence[Case], folds: pd.DataFrame, runs: dict[str, Run], resamples: int) -> None:
    """Prints every finder's metrics by data set, and the paired differences."""
    from glomflow.config import Evaluation
    from glomflow.evaluation.detection_summary import compare_finders, finder_summary

    evaluation = Evaluation(bootstrap=resamples)
    names = sorted({case.data for case in cases})
    for data in [*names, *(["all"] if len(names) > 1 else [])]:
        own = [case for case in cases if data in ("all", case.data)]
        border = "ignore" if any(case.border == "ignore" for case in own) else "count"
        rows = folds[folds["image"].isin([case.image for case in own])]
        searched = {name: detections(own, folds, run) for name, run in runs.items()}
        slides = len({case.slide for case in own})
        print(f"\n{data}: {len(own)} fields of {slides} slides; glomeruli cut by the border: {border}")
        for name, fields in searched.items():
            metrics = finder_summary(fields, rows, evaluation, seed=1, border=border).metrics
            cells = metrics[metrics["fold"] == "pooled"].set_index("metric")
            print(f"  {name}: {cells['found'].iloc[0]} found, {cells['annotated'].iloc[0]} annotated")
            for metric, head in zip(SHOWN, HEADS, strict=True):
                value, low, high = cells.loc[metric, ["value", "lower", "upper"]]
                ends = f"  ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""
                print(f"    {head:18s} {value:6.3f}{ends}")
        if len(searched) > 1:
            paired = compare_finders(searched, evaluation, seed=1, border=border)
            for row in paired[paired["metric"].isin(["ap50", "ap", "dice", "f1"])].itertuples():
                ends = f" ({row.lower:+.2f} to {row.upper:+.2f})" if np.isfinite(row.lower) else ""
                print(
                    f"  {row.first} less {row.other}, {row.metric}: {row.difference:+.3f}{ends}, "
                    f"P = {row.p_value:.3f}"
                )


def machine(threads: int) -> str:
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{model}, {os.cpu_count()} cores of which {threads} used, {device}, torch {torch.__version__}"


def finder_settings(arguments: argparse.Namespace):
    from glomflow.config_finder import Finder, FinderTraining

    training = FinderTraining(
        steps=arguments.steps,
        patch=arguments.patch,
        batch_size=arguments.batch_size,
        max_minutes=arguments.max_minutes,
        validate_every=max(1, min(100, arguments.steps // 5)),
    )
    return Finder(
        um_per_px=arguments.um_per_px, tile=arguments.tile, n_splits=arguments.folds, training=training
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, default=REAL, help="folder of the real fields")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA, help="which of the real fields")
    parser.add_argument(
        "--within-slides",
        action="store_true",
        help="take every field for a slide of its own: what a few annotated fields of the same slide bring",
    )
    parser.add_argument("--phantom", type=int, default=0, metavar="N", help="draw N fields instead")
    parser.add_argument("--steps", type=int, default=300, help="training steps per fold")
    parser.add_argument("--max-minutes", type=float, default=None, help="limit of one training")
    parser.add_argument("--um-per-px", type=float, default=4.0, help="what the finder sees")
    parser.add_argument("--patch", type=int, default=128, help="edge of training patches, px")
    parser.add_argument("--tile", type=int, default=256, help="edge of searched tiles, px")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random-encoder", action="store_true", help="also start from a random encoder")
    arguments = parser.parse_args()
    cases = chosen_cases(arguments)
    folds = folds_of(cases, arguments.folds, arguments.seed)
    settings = finder_settings(arguments)
    print(machine(arguments.threads))
    print(
        f"{len(cases)} fields, {sum(len(case.polygons) for case in cases)} glomeruli, "
        f"{len({case.slide for case in cases})} slides, {arguments.folds} folds disjoint by "
        f"{'field only, NOT by slide' if arguments.within_slides else 'slide'}; "
        f"{arguments.steps} steps of {arguments.batch_size} patches of {arguments.patch} px at "
        f"{arguments.um_per_px:g} µm/px"
    )
    runs: dict[str, Run] = {}
    print("  glomflow")
    runs["glomflow"] = trained_finder(cases, folds, settings, arguments.seed, arguments.threads)
    print("  blobs")
    runs["blobs"] = blobs(cases, folds)
    if arguments.random_encoder:
        print("  random encoder")
        encoder = settings.encoder.model_copy(update={"weights": "random"})
        training = settings.training.model_copy(update={"frozen": 0.0, "encoder_rate": 1.0})
        scratch = settings.model_copy(update={"encoder": encoder, "training": training})
        runs["random encoder"] = trained_finder(cases, folds, scratch, arguments.seed, arguments.threads)
    report(cases, folds, runs, arguments.resamples)
    print()
    for name, run in runs.items():
        print(
            f"{name}: {np.mean(run.seconds):.2f} s per field ({np.median(run.seconds):.2f} median), training "
            f"{np.sum(run.training):.0f} s in all, {np.mean(run.training):.0f} s per fold"
        )


if __name__ == "__main__":
    main()
