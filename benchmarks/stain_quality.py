"""What stain normalisation does to colours, and what it leaves of the picture.

For the phantom cohort (three sites that stain differently) and for real kidney sections, each method and
target: how far the groups (sites or slides) are apart in colour before and after, as CIELAB distance, as
spread of hue and as angle between their stain vectors; SSIM of L* and mean absolute difference between the
picture before and after. Then one reference image against the mean of three and against the nearest of
three. Then the agreement with torchstain and tiatoolbox, where they are installed, on the same pixels. For
silver see stain_silver.py.

Prints Markdown. Run with: python benchmarks/stain_quality.py --real FOLDER [--full]
FOLDER holds pas_glomeruli, structures and stains; without it only the phantom is measured.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.metrics import structural_similarity

from glomflow.cohort.phantom.plan import plan_phantom
from glomflow.cohort.phantom.sites import site_named
from glomflow.cohort.phantom.write import write_phantom_images
from glomflow.config import Phantom, Stain
from glomflow.imaging.pixels import as_rgb_uint8
from glomflow.imaging.readers import open_image
from glomflow.imaging.stain import (
    PUBLISHED_BACKGROUND,
    StainProfile,
    estimate_background,
    estimate_profile,
    normalise,
    rgb_to_lab,
    tissue_mask,
)
from glomflow.imaging.stain_standards import THREE_DYES, number_of_dyes
from glomflow.imaging.stain_targets import choose_target, profile_row
from glomflow.imaging.stain_white import standard_white, white_profile

MACENKO = Stain()
UNMIXED = {"white_only": []}
STRUCTURES = {"HE": "he", "PAS": "pas", "TRICHROME": "tri", "PASM": "sil"}


@dataclass(frozen=True)
class Picture:
    """A picture, its slide, and the group (site or slide) that it belongs to."""

    rgb: np.ndarray
    slide: str
    group: str


# --- pictures ------------------------------------------------------------------------------------


def phantom_pictures(patients: int) -> list[Picture]:
    """Draws the OM fields of a phantom cohort and reads them at 1 µm/px."""
    plan = plan_phantom(Phantom(patients=patients, glomeruli=(4, 4), missing_modality=0, damaged_files=0))
    fields = tuple(replace(patient, missing=("IM",), micrographs=()) for patient in plan.patients)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("OM", "truth/OM"):
            (Path(folder) / name).mkdir(parents=True)
        write_phantom_images(
            replace(plan, patients=fields), Path(folder), [patient.patient for patient in fields]
        )
        for patient in fields:
            shrink = max(1.0, 1.0 / site_named(patient.site).om_um_per_px)
            with open_image(Path(folder) / str(patient.om_path)) as reader:
                size = round(reader.width / shrink), round(reader.height / shrink)
                rgb = as_rgb_uint8(reader.read_region(0, 0, reader.width, reader.height, *size))
            pictures.append(Picture(rgb, patient.patient, patient.site))
    return pictures


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def real_pictures(folder: Path, full: bool) -> dict[str, tuple[str, list[Picture]]]:
    """Reads the real sections: name of the set -> (stain, pictures)."""
    sets: dict[str, tuple[str, list[Picture]]] = {}
    labels = pd.read_csv(folder / "pas_glomeruli" / "labels.csv")
    labels = labels.groupby("slide").head(8 if full else 3)
    sets["PAS, 10 slides"] = (
        "PAS",
        [
            Picture(read(folder / "pas_glomeruli" / row.image), str(row.slide), str(row.slide))
            for row in labels.itertuples()
        ],
    )
    for stain, name in STRUCTURES.items():
        paths = [
            path
            for part in ("2_0_capsule", "3_0_tuft")
            for path in sorted((folder / "structures" / part / name).glob("*.png"))
            if "mask" not in path.name
        ]
        pictures = [Picture(read(path), f"{path.parents[1].name}/{path.stem}", path.stem) for path in paths]
        sets[f"{stain}, Omni-Seg"] = (stain, pictures)
    ihc = sorted((folder / "stains").glob("*_ihc.png"))
    edge = 1000 if full else 500
    sets["IHC, 7 fields"] = ("IHC", [Picture(read(path)[:edge, :edge], path.stem, path.stem) for path in ihc])
    return sets


# --- measures ------------------------------------------------------------------------------------


def tissue_colour(rgb: np.ndarray) -> np.ndarray:
    """Mean L*, a*, b* over tissue."""
    tissue = tissue_mask(rgb, estimate_background(rgb), 0.15)
    mean: np.ndarray = rgb_to_lab(rgb[tissue]).mean(axis=0)
    return mean


def stain_vectors(rgb: np.ndarray) -> np.ndarray:
    """The two Macenko vectors, or NaN where there are none."""
    matrix = estimate_profile(rgb, MACENKO).matrix
    return np.full((2, 3), np.nan) if matrix is None else np.array(matrix)


def by_group(values: Iterable[np.ndarray], groups: Sequence[str]) -> np.ndarray:
    """Mean of the values of each group."""
    stacked = np.stack(list(values))
    names = sorted(set(groups))
    return np.stack([np.nanmean(stacked[[group == name for group in groups]], axis=0) for name in names])


def spreads(pictures: Sequence[np.ndarray], groups: Sequence[str]) -> tuple[float, float, float]:
    """How far groups are apart.

    Returns:
        Mean CIELAB distance between groups, circular standard deviation of their hue (degrees), mean
        angle between their stain vectors (degrees).
    """
    colours = by_group([tissue_colour(rgb) for rgb in pictures], groups)
    pairs = np.triu_indices(len(colours), 1)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)[pairs].mean()
    directions = np.exp(1j * np.arctan2(colours[:, 2], colours[:, 1]))
    hue = np.degrees(np.sqrt(-2.0 * np.log(min(1.0, abs(directions.mean())))))
    vectors = by_group([stain_vectors(rgb) for rgb in pictures], groups)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    cosines = np.einsum("aik,bik->abi", vectors, vectors)[pairs]
    return float(distance), float(hue), float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).mean())


def structure(before: np.ndarray, after: np.ndarray) -> float:
    """SSIM of L*."""
    one, two = (rgb_to_lab(rgb)[..., 0] for rgb in (before, after))
    return float(structural_similarity(one, two, data_range=100.0))


# --- tables --------------------------------------------------------------------------------------


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


def header(*cells: str) -> None:
    row(*cells)
    row(*["---"] * len(cells))


def slide_profiles(pictures: Sequence[Picture], settings: Stain, stain: str = "") -> dict[str, StainProfile]:
    """A profile per slide, over the pixels of all its pictures."""
    pooled: dict[str, list[np.ndarray]] = {}
    for picture in pictures:
        pooled.setdefault(picture.slide, []).append(picture.rgb.reshape(-1, 3))
    dyes = number_of_dyes(stain, settings)
    initial = THREE_DYES.get(stain) if dyes == 3 else None
    return {
        slide: estimate_profile(np.concatenate(parts), settings, slide, stains=dyes, initial=initial)
        for slide, parts in pooled.items()
    }


def target_of(stain: str, profiles: dict[str, StainProfile], settings: Stain) -> StainProfile:
    """Chooses the target of a set of one stain."""
    table = pd.DataFrame([profile_row(profile) for profile in profiles.values()])
    images = pd.DataFrame({"modality": "OM", "stain": stain, "slide": list(profiles)})
    return choose_target(table, images, settings, Path())[stain]


def measure_set(name: str, stain: str, pictures: Sequence[Picture], methods: Sequence[str]) -> None:
    """Prints the rows of one set of pictures."""
    row(name, "as scanned", "", *spreads([p.rgb for p in pictures], [p.group for p in pictures]), *[""] * 4)
    for method in methods:
        for target_name in ("standard", "cohort_median"):
            settings = Stain(method=method, target=target_name, **UNMIXED)
            profiles = slide_profiles(pictures, settings)
            target = target_of(stain, profiles, settings)
            if not target.flag:
                measure_change(name, method, target_name, pictures, profiles, target)
        if stain in THREE_DYES and method != "reinhard":
            settings = Stain(method=method, target="cohort_median", three_dyes=[stain])
            profiles = slide_profiles(pictures, settings, stain)
            target = target_of(stain, profiles, settings)
            measure_change(name, f"{method}, three dyes", "cohort_median", pictures, profiles, target)
    if stain == "PASM":
        profiles = {picture.slide: white_profile(picture.rgb, MACENKO, picture.slide) for picture in pictures}
        measure_change(name, "white level", "standard", pictures, profiles, standard_white(stain, MACENKO))


def measure_change(
    name: str,
    method: str,
    target_name: str,
    pictures: Sequence[Picture],
    profiles: dict[str, StainProfile],
    target: StainProfile,
) -> None:
    """Prints one row: pictures recoloured by the profiles of their slides."""
    before = [picture.rgb for picture in pictures]
    after = [normalise(picture.rgb, profiles[picture.slide], target) for picture in pictures]
    likeness = [structure(one, two) for one, two in zip(before, after, strict=True)]
    apart = [float(np.abs(one.astype(int) - two).mean()) for one, two in zip(before, after, strict=True)]
    flagged = sum(bool(profile.flag) for profile in profiles.values())
    row(
        name,
        method,
        target_name,
        *spreads(after, [picture.group for picture in pictures]),
        float(np.mean(likeness)),
        min(likeness),
        float(np.mean(apart)),
        f"{flagged} of {len(profiles)}",
    )


# --- several references ---------------------------------------------------------------------------


def mean_profile(members: Sequence[StainProfile]) -> StainProfile:
    """The mean of Macenko profiles, as imaging.stain.references takes it."""
    matrix = np.mean([member.matrix for member in members], axis=0)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return replace(
        members[0],
        matrix=tuple(tuple(vector) for vector in matrix.tolist()),
        concentrations=tuple(np.mean([member.concentrations for member in members], axis=0).tolist()),
        background=tuple(np.mean([member.background for member in members], axis=0).tolist()),
    )


def unlikeness(one: StainProfile, other: StainProfile) -> float:
    """Angle between stain vectors in units of 10 degrees, plus the logarithm of the ratio of amounts."""
    cosines = np.clip((np.array(one.matrix) * np.array(other.matrix)).sum(axis=1), -1, 1)
    ratio = np.array(one.concentrations) / np.array(other.concentrations)
    return float(np.degrees(np.arccos(cosines)).mean() / 10 + np.abs(np.log(ratio)).mean())


def measure_references(name: str, pictures: Sequence[Picture]) -> None:
    """Prints what one reference, the mean of three and the nearest of three make of a set."""
    profiles = slide_profiles(pictures, MACENKO)
    usable = [profile for profile in profiles.values() if not profile.flag]
    generator = np.random.default_rng(0)
    triples = [[usable[i] for i in generator.choice(len(usable), 3, replace=False)] for _ in range(8)]
    choices: dict[str, list[Callable[[StainProfile], StainProfile]]] = {
        "one reference": [lambda _, target=one: target for one in usable],
        "mean of three": [lambda _, target=mean: target for mean in map(mean_profile, triples)],
        "nearest of three": [
            lambda source, three=three: min(three, key=lambda target: unlikeness(source, target))
            for three in triples
        ],
    }
    for what, choosers in choices.items():
        distances, likeness = [], []
        for choose in choosers:
            after = [normalise(p.rgb, profiles[p.slide], choose(profiles[p.slide])) for p in pictures]
            distances.append(spreads(after, [picture.group for picture in pictures])[0])
            likeness += [structure(p.rgb, rgb) for p, rgb in zip(pictures, after, strict=True)]
        row(name, what, float(np.mean(distances)), max(distances), float(np.mean(likeness)), min(likeness))


# --- peers ---------------------------------------------------------------------------------------


def peers() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Returns what is installed: name -> function of (picture, reference picture)."""
    found: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {}
    try:
        from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer
        from torchstain.numpy.normalizers.reinhard import NumpyReinhardNormalizer
    except ImportError as error:
        print(f"\ntorchstain is left out: {error}")
    else:

        def macenko(rgb: np.ndarray, reference: np.ndarray) -> np.ndarray:
            normalizer = NumpyMacenkoNormalizer()
            normalizer.fit(reference)
            return np.asarray(normalizer.normalize(rgb, stains=False)[0])

        def reinhard(rgb: np.ndarray, reference: np.ndarray) -> np.ndarray:
            normalizer = NumpyReinhardNormalizer()
            normalizer.fit(reference)
            return np.asarray(normalizer.normalize(rgb))

        found |= {"torchstain macenko": macenko, "torchstain reinhard": reinhard}
    return found | tiatoolbox_peers()


def tiatoolbox_peers() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    try:
        from glomflow.models.torchvision_compat import import_torchvision

        import_torchvision()
        from tiatoolbox.tools.stainnorm import get_normalizer
    except ImportError as error:
        print(f"\ntiatoolbox is left out: {error}")
        return {}

    def by(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def apply(rgb: np.ndarray, reference: np.ndarray) -> np.ndarray:
            normalizer = get_normalizer(method)
            normalizer.fit(reference.copy())
            return np.asarray(normalizer.transform(rgb.copy()))

        return apply

    return {f"tiatoolbox {method}": by(method) for method in ("macenko", "vahadane", "reinhard")}


def measure_peers(folder: Path, methods: Sequence[str], edge: int) -> None:
    """Prints the agreement with peers, one field recoloured to another of its stain."""
    fields = {
        "HE": read(folder / "stains" / "kidney_01_he.png")[:edge, :edge],
        "PAS": read(folder / "stains" / "kidney_02_pas.png")[:edge, :edge],
    }
    references = {
        "HE": read(folder / "structures" / "2_0_capsule" / "he" / "im_155_0.png"),
        "PAS": read(folder / "structures" / "2_0_capsule" / "pas" / "im_174_0.png"),
    }
    installed = peers()
    print()
    header(
        "peer",
        "stain",
        "mean absolute difference, peers' settings",
        "ours by default",
        "picture to result",
        "SSIM of L*: ours",
        "theirs",
    )
    for name, peer in installed.items():
        method = name.split()[1]
        if method not in methods:
            continue
        for stain, rgb in fields.items():
            theirs = peer(rgb, references[stain]).astype(int)
            settings = Stain(method=method)  # type: ignore[arg-type]
            options: dict[str, Any] = (
                {}
                if method == "reinhard"
                else {"background": PUBLISHED_BACKGROUND, "concentrations_over": "image"}
            )
            alike, ours = (
                normalise(
                    rgb,
                    *(estimate_profile(picture, settings, **chosen) for picture in (rgb, references[stain])),
                )
                for chosen in (options, {})
            )
            gaps = [float(np.abs(result.astype(int) - theirs).mean()) for result in (alike, ours)]
            moved = float(np.abs(ours.astype(int) - rgb).mean())
            row(name, stain, *gaps, moved, structure(rgb, ours), structure(rgb, theirs.astype(np.uint8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder of real renal images")
    parser.add_argument("--methods", nargs="+", default=["macenko", "vahadane", "reinhard"])
    parser.add_argument("--patients", type=int, default=6, help="patients of the phantom cohort")
    parser.add_argument("--full", action="store_true", help="30 patients, whole fields, 8 crops of a slide")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}\n")
    header(
        "pictures",
        "method",
        "target",
        "CIELAB distance",
        "hue SD, °",
        "vector angle, °",
        "SSIM of L*",
        "least",
        "mean difference",
        "flagged",
    )
    pictures = phantom_pictures(30 if arguments.full else arguments.patients)
    measure_set("phantom, 3 sites", "PAS", pictures, arguments.methods)
    if arguments.real is None:
        return
    sets = real_pictures(arguments.real, arguments.full)
    for name, (stain, members) in sets.items():
        measure_set(name, stain, members, arguments.methods)
    print()
    header("pictures", "target", "CIELAB distance", "most", "SSIM of L*", "least")
    for name in ("PAS, 10 slides", "HE, Omni-Seg"):
        measure_references(name, sets[name][1])
    measure_peers(arguments.real, arguments.methods, 1000 if arguments.full else 500)


if __name__ == "__main__":
    main()
