"""The generated reference, and the configurations that come with the project."""

import json
import runpy
import sys

import jsonschema
import yaml

from glomflow import config_docs
from glomflow.config import Config
from glomflow.config_check import load_config, sections


def test_the_files_in_the_repository_are_up_to_date(repo):
    again = "run 'python -m glomflow.config_docs'"
    assert (repo / config_docs.MARKDOWN).read_text(encoding="utf-8") == config_docs.markdown(), again
    assert (repo / config_docs.SCHEMA).read_text(encoding="utf-8") == config_docs.schema_text(), again


def test_every_key_has_a_line_with_a_meaning():
    text = config_docs.markdown()
    for path, model in sections():
        assert f"## {'.'.join(path) or 'Sections'}\n" in text
        for name, field in model.model_fields.items():
            assert field.description, f"{'.'.join(path)}.{name} has no description"
            assert f"| `{name}` | " in text


def test_lines_are_readable():
    lines = config_docs.markdown().splitlines()
    assert (
        "| `instance` | one of `tile`, `image`; default: `tile` | `tile`: tiles at a stated nm/px. `image`: "
        "each image less its bar, resized (published). |" in lines
    )
    assert "| `stain` | section [imaging.stain](#imagingstain) | Stain normalisation. |" in lines
    assert (
        "| `models` | names, each with its own section, at least 1 of them; default: `cmus_net`; see "
        "[diagnosis.models.NAME](#diagnosismodelsname) | Models by name; the others are compared "
        "with the first. Models in a file laid over `config.yaml` replace all of its own. |"
    ) in lines


def test_the_command_writes_both_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["config_docs", str(tmp_path)])
    monkeypatch.delitem(sys.modules, "glomflow.config_docs")
    runpy.run_module("glomflow.config_docs", run_name="__main__")
    assert (tmp_path / config_docs.MARKDOWN).read_text(encoding="utf-8") == config_docs.markdown()
    assert json.loads((tmp_path / config_docs.SCHEMA).read_text(encoding="utf-8")) == config_docs.schema()


def test_the_schema_agrees_with_the_models():
    schema = config_docs.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(Config().model_dump(mode="json"), schema)
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors({"folds": {"n_splits": 1, "sed": 2}}))
    assert len(errors) == 2


def test_the_configurations_of_the_project_validate(repo):
    schema = config_docs.schema()
    for path in [*repo.glob("config.yaml"), *sorted((repo / "config").glob("*.yaml"))]:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert load_config(raw), path
        jsonschema.validate(raw, schema)
