"""Do all three modalities beat the best single one, and which SMIL variant finds the deposits?

Runs the workflow on a phantom cohort of its own (another seed than the default run's, on which the
settings were chosen) and prints accuracy with intervals beside the designed ceilings, the paired
comparisons, and what the weights of `sum` and `distance` fall on.

    python benchmarks/modality_ablation.py --patients 300 --out results/benchmark-ablation
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

REPO = Path(__file__).resolve().parents[1]
MODELS = {
    "cmus_net_sum": {"smil": {"variant": "sum"}},
    "cmus_net_distance": {"smil": {"variant": "distance"}},
    "tem_only_sum": {"modalities": ["TEM"], "smil": {"variant": "sum"}},
    "tem_only_distance": {"modalities": ["TEM"], "smil": {"variant": "distance"}},
    "im_only": {"modalities": ["IM"]},
    "om_only": {"modalities": ["OM"]},
}


def configuration(patients: int, seed: int, out: Path) -> dict:
    """The default run with more patients, another seed and both variants."""
    config = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    config["run"] |= {"results": str(out / "results"), "tracks": ["diagnosis"], "shards": 6}
    config["phantom"] |= {"patients": patients, "seed": seed}
    config["diagnosis"]["models"] = MODELS
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
    """Prints the three tables."""
    pooled = pd.read_parquet(metrics / "disease" / "pooled.parquet")
    columns = ["model", "value", "lower", "upper", "ceiling", "realised_ceiling"]
    print("\naccuracy, all test patients")
    print(pooled[pooled["metric"] == "accuracy"][columns].round(3).to_string(index=False))
    compared = pd.read_parquet(metrics / "disease" / "comparisons.parquet")
    columns = ["model", "other", "difference", "lower", "upper", "p_value", "p_holm"]
    print("\npaired differences in accuracy (exact McNemar)")
    print(compared[compared["metric"] == "accuracy"][columns].round(4).to_string(index=False))
    hits = pd.read_parquet(metrics / "deposits.parquet")
    columns = ["model", "measure", "value", "lower", "upper", "chance", "excess", "patients"]
    print("\nTEM tiles that show a deposit, by weight (kept: share of deposit tiles kept, of others)")
    print(hits[columns].round(3).to_string(index=False))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--cores", default="all")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark-ablation"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    seconds = run(configuration(arguments.patients, arguments.seed, out), out, arguments.cores)
    print(f"{arguments.patients} patients, seed {arguments.seed}: {seconds:.0f} s")
    show(out / "results" / "metrics")


if __name__ == "__main__":
    main()
