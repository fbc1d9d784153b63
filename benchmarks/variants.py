"""Every variant and baseline on one phantom cohort, under one protocol.

Runs the workflow with `config/ablations.yaml` on a phantom cohort of its own (another seed than the default
run's, on which the settings were chosen) and prints, per model, accuracy with its interval beside the
designed ceiling, the paired difference from the first model, and how often the instance that weighs most
shows a deposit.

    python benchmarks/variants.py --patients 300 --seed 303 --out results/benchmark-variants
    python benchmarks/variants.py --show results/benchmark-variants/results
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

REPO = Path(__file__).resolve().parents[1]


def configuration(arguments: argparse.Namespace, out: Path) -> dict:
    """The default run with the models of `config/ablations.yaml`, more patients and another seed."""
    config = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    laid_over = yaml.safe_load((REPO / "config/ablations.yaml").read_text(encoding="utf-8"))
    models = laid_over["diagnosis"]["models"]
    unknown = sorted(set(arguments.models) - set(models))
    if unknown:
        raise SystemExit(
            f"config/ablations.yaml has no model {', '.join(unknown)}; it has {', '.join(models)}"
        )
    config["run"] |= {"results": str(out / "results"), "tracks": ["diagnosis"], "shards": arguments.shards}
    config["phantom"] |= {"patients": arguments.patients, "seed": arguments.seed}
    config["folds"] |= laid_over["folds"] | {"repeats": arguments.repeats}
    config["diagnosis"]["models"] = {name: models[name] for name in arguments.models or models}
    return config


def run(config: dict, out: Path, cores: str) -> float:
    """Runs the workflow up to the metrics and returns the seconds it took."""
    out.mkdir(parents=True, exist_ok=True)
    configfile = out / "config.yaml"
    configfile.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    metrics = f"{config['run']['results']}/metrics"
    # The project's own config.yaml would add its models: the copy stands alone in its folder.
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--snakefile", str(REPO / "Snakefile")]
    command += ["--directory", str(out), "--configfile", str(configfile), "--quiet", "all"]
    command += ["--", f"{metrics}/disease/summary.json", f"{metrics}/deposits.parquet"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def show(metrics: Path) -> None:
    """Prints the tables."""
    pooled = pd.read_parquet(metrics / "disease/pooled.parquet").query("metric == 'accuracy'")
    compared = pd.read_parquet(metrics / "disease/comparisons.parquet").query("metric == 'accuracy'")
    first = pooled["model"].iloc[0]
    rows = pooled.merge(
        compared.drop(columns="model").rename(
            columns={"other": "model", "lower": "d_lower", "upper": "d_upper"}
        ),
        on="model",
        how="left",
    )
    # The table says how much each model gains on the first, not the other way round.
    rows["gain"], rows["gain_lower"], rows["gain_upper"] = (
        -rows["difference"],
        -rows["d_upper"],
        -rows["d_lower"],
    )
    columns = ["model", "value", "lower", "upper", "ceiling", "gain", "gain_lower", "gain_upper", "p_holm"]
    print(f"\naccuracy over all test patients; gain: less {first}, on the same patients")
    print(rows[columns].round(3).to_string(index=False))
    hits = pd.read_parquet(metrics / "deposits.parquet")
    hits = hits[hits["measure"].isin(["top1", "kept"])]
    print("\nTEM instances that show a deposit (top1: the heaviest one; kept: by a filter)")
    print(
        hits[["model", "measure", "value", "lower", "upper", "chance", "patients"]]
        .round(3)
        .to_string(index=False)
    )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=303)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--models", nargs="*", default=[], help="some of the models, the first one compared")
    parser.add_argument("--cores", default="all")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark-variants"))
    parser.add_argument("--show", type=Path, help="results folder of an earlier run: print its tables only")
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.show / "metrics")
        return
    out = arguments.out.resolve()
    seconds = run(configuration(arguments, out), out, arguments.cores)
    print(
        f"{arguments.patients} patients, seed {arguments.seed}, {arguments.repeats} repeats: {seconds:.0f} s"
    )
    show(out / "results" / "metrics")


if __name__ == "__main__":
    main()
