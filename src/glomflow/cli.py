"""The ``glomflow`` command: what is done once, outside the workflow."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from glomflow.errors import GlomflowError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glomflow", description="What is done once, beside the workflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    published = commands.add_parser(
        "import-published",
        help="write the two sheets of the layout class/patient/Modality_Disease_Patient_name.jpg",
    )
    published.add_argument("source", type=Path, help="folder that holds one folder per class")
    published.add_argument("--out", type=Path, default=None, help="where the sheets go (default: SOURCE)")
    check = commands.add_parser("check", help="check a cohort's two sheets without running anything")
    check.add_argument("folder", type=Path, help="folder of patients.csv and images.csv")
    check.add_argument("--classes", nargs="+", default=["IgAN", "MN", "LN"], help="allowed labels")
    check.add_argument("--folds", type=int, default=5, help="outer folds that the classes have to fill")
    annotations = commands.add_parser(
        "annotations", help="turn annotations of any format into GeoJSON for QuPath"
    )
    annotations.add_argument("source", type=Path, help="annotation file")
    annotations.add_argument("--image", type=Path, required=True, help="the image that was annotated")
    annotations.add_argument("--out", type=Path, required=True, help="GeoJSON file to write")
    costs = commands.add_parser("estimate", help="estimate from a finished run what larger cohorts will take")
    costs.add_argument("results", type=Path, help="results folder of a finished run")
    costs.add_argument("--patients", type=int, nargs="+", default=[1000, 10_000, 100_000], help="cohorts")
    costs.add_argument("--workers", type=int, default=64, help="jobs that run at a time")
    costs.add_argument(
        "--pixels", type=float, nargs="+", default=[1.0], help="how many times as many pixels the images have"
    )
    costs.add_argument(
        "--time",
        choices=["wall", "cpu"],
        default="wall",
        help="wall or processor time of the run's benchmarks",
    )
    status = commands.add_parser(
        "status", help="say how far a run is: beside it, after it, or from a copy of its results"
    )
    status.add_argument("results", nargs="?", default="results", help="results folder, or s3://bucket/path")
    status.add_argument("--json", action="store_true", help="print JSON, for programs")
    status.add_argument("--lines", type=int, default=5, help="last lines shown of each log (default: 5)")
    status.add_argument("--watch", type=float, metavar="SECONDS", help="look again until the run ends")
    commands.add_parser("formats", help="list the image formats that can be read, and what each one needs")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "import-published":
        from glomflow.cohort.published import import_published

        out = arguments.out or arguments.source
        import_published(arguments.source, out)
        print(f"wrote {out / 'patients.csv'} and {out / 'images.csv'}")
        return
    if arguments.command == "annotations":
        from glomflow.imaging.annotations import convert_annotations

        print(convert_annotations(arguments.source, arguments.image, arguments.out))
        return
    if arguments.command == "status":
        from glomflow.status import show_status

        show_status(
            arguments.results, as_json=arguments.json, log_lines=arguments.lines, watch=arguments.watch
        )
        return
    if arguments.command == "formats":
        from glomflow.imaging.readers.formats import format_table

        print(format_table())
        return
    if arguments.command == "estimate":
        from glomflow.estimates import costs_table, estimate_table, measured_costs

        column: Literal["seconds", "cpu_seconds"] = "cpu_seconds" if arguments.time == "cpu" else "seconds"
        costs = measured_costs(arguments.results, column)
        told = {"workers": arguments.workers, "pixels": arguments.pixels}
        print(costs_table(costs), estimate_table(costs, arguments.patients, **told), sep="\n\n")
        return
    from glomflow.cohort.sheets import read_cohort

    patients, images = read_cohort(
        arguments.folder,
        "patients.csv",
        "images.csv",
        classes=arguments.classes,
        n_splits=arguments.folds,
        shards=1,
    )
    print(f"{len(patients)} patients and {len(images)} images: no problem found")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Words after the command's name; those of the process by default.

    Returns:
        0 if all went well, 1 after an error that the message explains, 130 if it was interrupted.
    """
    try:
        _run(_parser().parse_args(arguments))
    except GlomflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
