"""The profiles name rules and settings that there are."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import networkx
import pytest
import yaml
import yte


def _rules(repo: Path) -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in (repo / "rules").glob("*.smk")]
    return {name for text in texts for name in re.findall(r"^ *rule (\w+):", text, flags=re.M)}


def _profile(repo: Path, **variables: str) -> dict:
    text = (repo / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    for name, value in variables.items():
        text, count = re.subn(rf'^  {name}: ""', f"  {name}: {value}", text, flags=re.M)
        assert count == 1
    return yte.process_yaml(text, require_use_yte=True)


def test_every_rule_has_memory_and_time_that_grow_with_attempts(repo) -> None:
    wanted = _profile(repo)["set-resources"]
    assert set(wanted) == _rules(repo)
    for rule, resources in wanted.items():
        for name in ("mem_mb", "runtime"):
            assert re.fullmatch(r"\d+ \* attempt", resources[name]), (rule, name)


def test_groups_name_rules(repo) -> None:
    assert set(_profile(repo)["groups"]) <= _rules(repo)


def test_no_group_holds_rules_whose_parameters_look_into_files(repo) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (repo / "rules").glob("*.smk"))
    for rule in _profile(repo)["groups"]:
        body = re.split(rf"^ *rule {rule}:", text, flags=re.M)[1]
        body = re.split(r"^ *rule \w+:", body, flags=re.M)[0]
        assert not re.search(r"files=\w*fingerprint", body), rule


def test_rules_whose_parameters_look_into_files_have_a_message(repo) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (repo / "rules").glob("*.smk"))
    rules = [part for part in re.split(r"(?m)^ *rule ", text) if re.search(r"files=\w*fingerprint", part)]
    assert len(rules) == 7
    for rule in rules:
        assert "message:" in rule, f"see fingerprint() in rules/common.smk: {rule.partition(':')[0]}"


def test_no_rule_retries_by_itself(repo) -> None:
    for path in [repo / "Snakefile", *(repo / "rules").glob("*.smk")]:
        assert "retries" not in path.read_text(encoding="utf-8"), "retries multiply with those of the profile"


def test_account_and_gpu_model_are_set_in_one_place(repo) -> None:
    assert "slurm_account" not in _profile(repo)["default-resources"]
    assert "gpu_model" not in _profile(repo)["set-resources"]["train"]
    edited = _profile(repo, account="kidney", gpu_model="a100")
    assert edited["default-resources"]["slurm_account"] == "kidney"
    with_model = {name for name, res in edited["set-resources"].items() if res.get("gpu_model") == "a100"}
    assert with_model == {
        "train",
        "predict",
        "train_glomerulus_finder",
        "find_glomeruli",
        "few_shot_adapted",
        "vlm_features",
        "vlm_similarity_maps",
    }


def test_settings_and_limits_are_the_executor_s(repo) -> None:
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    partitions = pytest.importorskip("snakemake_executor_plugin_slurm.partitions")
    known = {field.name.replace("_", "-") for field in dataclasses.fields(plugin.ExecutorSettings)}
    profile = _profile(repo)
    named = {key.removeprefix("slurm-") for key in profile if key.startswith("slurm-")}
    assert named <= known
    # Below MinJobAge, 300 s by default; above it the executor turns to sacct, which needs accounting.
    assert 3 * profile["slurm-init-seconds-before-status-checks"] < 300
    text = (repo / "profiles" / "slurm" / profile["slurm-partition-config"]).read_text(encoding="utf-8")
    limits = {field.name for field in dataclasses.fields(partitions.PartitionLimits)}
    for name, given in yaml.safe_load(text)["partitions"].items():
        assert set(given) <= limits, name


EVERYTHING = """
imaging: {stain: {target: training_folds}, im: {standardise: site}}
diagnosis: {search: {trials: 2, learning_rate: [0.0001, 0.001]}, explanations: {enabled: true}}
"""


@pytest.mark.parametrize("settings", ["imaging: {stain: {target: cohort_median}}", EVERYTHING])
def test_no_group_waits_for_itself(repo, tmp_path, settings) -> None:
    groups = _profile(repo)["groups"]
    (tmp_path / "more.yaml").write_text(settings, encoding="utf-8")
    finder = repo / "tests" / "workflow" / "finder.yaml"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--rulegraph", "--configfile", finder]
    done = subprocess.run(
        [*command, tmp_path / "more.yaml"], cwd=repo, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = dict(re.findall(r'(\d+)\[label = "(\w+)', done.stdout))
    jobs = networkx.DiGraph()
    for before, after in re.findall(r"(\d+) -> (\d+)", done.stdout):
        ends = [groups.get(names[number], names[number]) for number in (before, after)]
        if ends[0] != ends[1]:
            jobs.add_edge(*ends)
    assert {"report", "folds", "cohort"} <= set(jobs)
    assert list(networkx.simple_cycles(jobs)) == []
