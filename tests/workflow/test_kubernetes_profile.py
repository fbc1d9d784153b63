"""The profile for Kubernetes, held against the arguments that Snakemake and the plugins take."""

import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "snakemake_executor_plugin_kubernetes"


@pytest.fixture(scope="module")
def profile() -> dict:
    return yaml.safe_load((ROOT / "profiles/kubernetes/config.yaml").read_text(encoding="utf-8"))


def options() -> set[str]:
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser()
    return {name.removeprefix("--") for action in parser._actions for name in action.option_strings}


def test_every_key_is_an_argument_of_snakemake(profile) -> None:
    keys = {key for key in profile if not key.startswith("kubernetes-")}
    assert keys <= options() | {"executor"}
    assert {"container-image", "default-storage-provider", "shared-fs-usage"} <= keys


@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is None, reason="needs the executor plugin")
def test_every_other_key_is_an_argument_of_the_plugin(profile) -> None:
    assert {key for key in profile if key.startswith("kubernetes-")} <= options()


def test_jobs_get_what_the_executor_asks_for_of_a_gpu(profile) -> None:
    resources = profile["default-resources"]
    assert resources["gpu"] == 0
    assert resources["gpu_manufacturer"] == "'nvidia'"
    assert resources["scale"] == 0
