"""Wrong configurations and the advice that they get."""

import re

import pytest
import yaml
from pydantic import BaseModel

from glomflow import config_check
from glomflow.config import Config
from glomflow.config_check import field_help, load_config
from glomflow.errors import ConfigError

CASES = {
    "unknown key": (
        "imaging: {stain: {methd: macenko}}",
        """config: unknown key 'imaging.stain.methd'; did you mean 'method'? Write:
    imaging:
      stain:
        method: macenko""",
    ),
    "unknown section": (
        "imagng: {stain: {method: none}}",
        """config: unknown key 'imagng'; did you mean 'imaging'? Write:
    imaging:
      stain:
        method: none""",
    ),
    "letter case": (
        "diagnosis: {loss: {om: 0.3}}",
        """config: unknown key 'diagnosis.loss.om'; did you mean 'OM'? Write:
    diagnosis:
      loss:
        OM: 0.3""",
    ),
    "in a named model": (
        "diagnosis: {models: {my_model: {smil: {varient: sum}}}}",
        """config: unknown key 'diagnosis.models.my_model.smil.varient'; did you mean 'variant'? Write:
    diagnosis:
      models:
        my_model:
          smil:
            variant: sum""",
    ),
    "in the wrong section": (
        "run: {stratify_by_site: false}",
        """config: unknown key 'run.stratify_by_site'; it belongs in 'folds'. Write:
    folds:
      stratify_by_site: false""",
    ),
    "a section in the wrong place": (
        "training: {epochs: 3}",
        """config: unknown key 'training'; it belongs in 'diagnosis'. Write:
    diagnosis:
      training:
        epochs: 3""",
    ),
    "ambiguous": (
        "weight_decay: 0.2",
        "config: unknown key 'weight_decay'; keys of this name are "
        "imaging.finder.training.weight_decay, diagnosis.training.weight_decay, "
        "diagnosis.search.weight_decay, vlm.pretraining.weight_decay; move it or delete it",
    ),
    "nothing near": (
        "diagnosis: {models: {a: {xyz: 1}}}",
        "config: unknown key 'diagnosis.models.a.xyz'; delete it or use one of the keys of "
        "'diagnosis.models.a': "
        "kind, modalities, task, ordinal, encoders, width, smil, om_bag, im_bag, cmsa, absent, "
        "modality_dropout, hidden, dropout, standardise, loss, parity",
    ),
    "nothing near at the top": (
        "stuff: 1",
        "config: unknown key 'stuff'; delete it or use one of the keys of the configuration: run, "
        "cohort, phantom, "
        "imaging, folds, encoder, encoders, diagnosis, few_shot, vlm, evaluation, report",
    ),
    "a number as key": (
        "folds: {5: 1}",
        "config: unknown key 'folds.5'; delete it or use one of the keys of 'folds': protocol, "
        "n_splits, repeats, sites, validation_fraction, stratify_by_site",
    ),
    "wrong choice": (
        "imaging: {stain: {method: macenk}}",
        """config: 'imaging.stain.method' is 'macenk', which is not one of macenko, vahadane, \
reinhard, none; did you mean \
'macenko'? Write:
    imaging:
      stain:
        method: macenko""",
    ),
    "a choice that YAML takes for empty": (
        "imaging: {stain: {method: }}",
        """config: 'imaging.stain.method' is nothing, which is not one of macenko, vahadane, \
reinhard, none; did you mean \
'none'? Write:
    imaging:
      stain:
        method: none""",
    ),
    "a choice that YAML takes for false": (
        "encoder: {trainable: no}",
        """config: 'encoder.trainable' is False, which is not one of none, last, all; did you mean \
'none'? Write:
    encoder:
      trainable: none""",
    ),
    "wrong choice in a list": (
        "diagnosis: {models: {a: {modalities: [OM, tem]}}}",
        """config: 'diagnosis.models.a.modalities[1]' is 'tem', which is not one of OM, IM, TEM; did you \
mean \
'TEM'? Write:
    diagnosis:
      models:
        a:
          modalities: [OM, TEM]""",
    ),
    "no choice near": (
        "encoder: {trainable: 7}",
        "config: 'encoder.trainable' is 7, which is not one of none, last, all; choose one of these",
    ),
    "wrong type": (
        "folds: {n_splits: many}",
        """config: 'folds.n_splits' is 'many'; expected: whole number, at least 2. For example, the \
default. Write:
    folds:
      n_splits: 5""",
    ),
    "out of range": (
        "folds: {validation_fraction: 0.7}",
        """config: 'folds.validation_fraction' is 0.7; expected: number, more than 0 and less than 0.5. For \
example, the default. Write:
    folds:
      validation_fraction: 0.2""",
    ),
    "decimal comma": (
        "imaging: {ingest: {um_per_px: '0,25'}}",
        """config: 'imaging.ingest.um_per_px' is '0,25'; expected: number, more than 0, or empty. Write:
    imaging:
      ingest:
        um_per_px: 0.25""",
    ),
    "decimal comma in a list": (
        "encoder: {mean: ['0,4', 0.5, 0.6]}",
        """config: 'encoder.mean[0]' is '0,4'; expected: number. Write:
    encoder:
      mean: [0.4, 0.5, 0.6]""",
    ),
    "optional without default": (
        "imaging: {ingest: {um_per_px: x}}",
        "config: 'imaging.ingest.um_per_px' is 'x'; expected: number, more than 0, or empty. OM and "
        "IM pixel size "
        "where neither sheet nor file tells it, µm/px.",
    ),
    "one value for a list": (
        "few_shot: {shots: 8}",
        """config: 'few_shot.shots' is 8; expected: list of whole numbers, each at least 0, at least 1 \
of them. Write:
    few_shot:
      shots: [8]""",
    ),
    "wrong element": (
        "phantom: {glomeruli: [0, 3]}",
        """config: 'phantom.glomeruli[0]' is 0; expected: whole number, at least 1. For example, the \
default. Write:
    phantom:
      glomeruli: [4, 10]""",
    ),
    "too few elements": (
        "encoder: {std: [1, 1]}",
        """config: 'encoder.std' is [1, 1]; expected: list of 3 numbers, each more than 0. For example, \
the default. \
Write:
    encoder:
      std: [0.5, 0.5, 0.5]""",
    ),
    "no models": (
        "diagnosis: {models: {}}",
        "config: 'diagnosis.models' is {}; expected: names, each with its own section, at least 1 of "
        "them. Models by name; the others are compared with the first. Models in a file laid over "
        "`config.yaml` replace all of its own.",
    ),
    "empty section": (
        "imaging: {stain: }",
        "config: section 'imaging.stain' holds nothing; give it keys (method, target, reference, references, "
        "three_dyes, white_only, um_per_px, tissue_od, percentile, min_tissue_pixels), indented below it, or "
        "delete the line",
    ),
    "text for a section": (
        "folds: five",
        "config: section 'folds' holds 'five'; give it keys (protocol, n_splits, repeats, sites, "
        "validation_fraction, stratify_by_site), indented below it, or delete the line",
    ),
    "name with a blank": (
        "diagnosis: {models: {my model: {}}}",
        "config: 'my model' in 'diagnosis.models' is no usable name; use letters, digits, '_' and '-'",
    ),
    "number for a name": (
        "diagnosis: {models: {7: {}}}",
        "config: '7' in 'diagnosis.models' is not text; write the name in quotes",
    ),
    "folder missing": (
        "cohort: {source: sheets}",
        "config: cohort.folder is needed with source: sheets; add 'folder: path/to/cohort'",
    ),
    "class twice": (
        "cohort: {source: sheets, folder: a, classes: [MN, MN]}",
        "config: cohort.classes names a class twice; keep one of them",
    ),
    "reference missing": (
        "imaging: {stain: {target: reference}}",
        "config: imaging.stain.reference is needed with target: reference",
    ),
    "crops and diagnosis": (
        "cohort: {source: crops, folder: a}",
        "config: run.tracks: ready-made crops (cohort.source: crops) carry no diagnosis; use "
        "'tracks: [glomeruli]'",
    ),
    "classes of the phantom": (
        "cohort: {classes: [MN, FSGS]}",
        "config: cohort.classes: the phantom cohort draws IgAN, MN and LN; leave the classes as they are",
    ),
    "empty file": (
        "",
        "config: the file holds nothing, not sections; write 'run:', 'cohort:' and so on at the "
        "start of lines, "
        "with their keys below, indented",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_advice(case):
    text, message = CASES[case]
    with pytest.raises(ConfigError) as caught:
        load_config(yaml.safe_load(text))
    assert str(caught.value) == message


def test_the_advised_lines_validate():
    for text, message in CASES.values():
        if "Write:" in message:
            advised = yaml.safe_load(message.partition("Write:\n")[2])
            assert load_config(advised), text


def test_models_of_a_file_laid_over_replace_the_default_ones():
    merged = {
        "diagnosis": {
            "models": {"cmus_net": {"hidden": 8, "parity": True}, "im_only": {}, "mine": {"hidden": 4}},
            "loss": {"OM": 0.1},
        }
    }
    laid_over = {"diagnosis": {"models": {"mine": {"hidden": 4}, "cmus_net": {"hidden": 8}}}}
    diagnosis = load_config(merged, laid_over).diagnosis
    assert {name: model.hidden for name, model in diagnosis.models.items()} == {"mine": 4, "cmus_net": 8}
    assert list(diagnosis.models) == ["mine", "cmus_net"]
    assert not diagnosis.models["cmus_net"].parity
    assert diagnosis.loss.OM == 0.1


@pytest.mark.parametrize("laid_over", [None, {}, {"diagnosis": None}, {"diagnosis": {"loss": {"OM": 0.1}}}])
def test_a_file_that_names_no_models_keeps_the_default_ones(laid_over):
    models = load_config({"diagnosis": {"models": {"a": {}, "b": {}}}}, laid_over).diagnosis.models
    assert list(models) == ["a", "b"]


def test_stain_augmentation_needs_a_trainable_encoder():
    raw = {"diagnosis": {"training": {"stain_augmentation": 0.5}}}
    with pytest.raises(ConfigError, match="stain_augmentation: the frozen encoder's features are cached, so"):
        load_config(raw)
    assert load_config({**raw, "encoder": {"trainable": "last"}}).diagnosis.training.stain_augmentation == 0.5


def test_stain_augmentation_looks_at_the_encoder_of_om():
    models = {"a": {"encoders": {"OM": "own", "TEM": "own", "IM": "own"}}, "tem": {"modalities": ["TEM"]}}
    raw = {
        "encoders": {"own": {"trainable": "last"}},
        "diagnosis": {"training": {"stain_augmentation": 0.5}, "models": models},
    }
    assert load_config(raw).encoders["own"].trainable == "last"
    raw["encoders"] = {"own": {}}
    with pytest.raises(ConfigError, match=r"model a cannot be recoloured; set encoders.own.trainable"):
        load_config(raw)


def test_encoders_of_a_model_are_frozen_or_trained_together():
    raw = {
        "encoders": {"big": {"trainable": "all"}},
        "diagnosis": {"models": {"a": {"modalities": ["OM", "TEM"], "encoders": {"TEM": "big"}}}},
    }
    message = (
        "config: diagnosis.models.a.encoders: that of OM (default) is frozen and that of TEM (big) is "
        "trained; a model reads either cached features or crops: give both trainable: none, or both last "
        "or all"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(raw)
    loaded = load_config({**raw, "encoder": {"trainable": "last"}})
    assert not loaded.is_frozen(loaded.diagnosis.models["a"])
    assert Config().is_frozen(Config().diagnosis.models["cmus_net"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "img_size: [224, 224]",
            r"encoder.options.img_size: \[224, 224\] is no single value; give a number, tr",
        ),
        ("out_indices: 1", "encoder.options.out_indices: this is decided by glomflow; take it out"),
    ],
)
def test_options_of_encoders(option, message):
    with pytest.raises(ConfigError, match=message):
        load_config(yaml.safe_load(f"encoder: {{options: {{{option}}}}}"))
    given = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True, "mlp_layer": "SwiGLUPacked"}
    options = load_config({"encoder": {"options": given}}).encoder.options
    assert [(value, type(value)) for value in options.values()] == [(v, type(v)) for v in given.values()]
    assert "names, each with a number, `true` or `false`, or a text" in field_help("encoder.options")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"folds": {"repeats": 2, "protocol": "leave_one_site_out"}},
            "config: folds.repeats: protocol leave_one_site_out has one way to split only; set repeats: 1",
        ),
        (
            {"diagnosis": {"search": {"trials": 5}}},
            "config: diagnosis.search.trials: there is nothing to search; give a range, such as "
            "'learning_rate: [0.00001, 0.001]', or set trials: 0",
        ),
        (
            {"diagnosis": {"models": {"a": {"modalities": ["OM", "OM"]}}}},
            "config: diagnosis.models.a.modalities: a modality is named twice; keep one of them",
        ),
    ],
)
def test_keys_of_a_section_that_do_not_fit(raw, message):
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert str(caught.value) == message


def test_folds_are_counted_before_any_job():
    assert load_config({"folds": {"n_splits": 4, "repeats": 3}}).folds.count([]) == 12
    left_out = load_config({"folds": {"protocol": "leave_one_site_out"}}).folds
    assert left_out.count(["a", "b"]) == 2
    assert (left_out.repeat_of(7), left_out.least_patients) == (0, 2)
    assert load_config({"folds": {"n_splits": 4, "repeats": 3}}).folds.repeat_of(7) == 1


def test_models_by_task():
    models = {
        "a": {},
        "s": {"task": "stage", "modalities": ["IM", "TEM"]},
        "one": {"modalities": ["OM"]},
        "table": {"kind": "logistic_regression"},
    }
    diagnosis = load_config({"diagnosis": {"models": models}}).diagnosis
    assert diagnosis.tasks == ["disease", "stage"]
    assert list(diagnosis.models_of("disease")) == ["a", "one", "table"]
    assert diagnosis.partial_of("disease") == ["a"]
    assert diagnosis.partial_of("stage") == ["s"]


def test_the_published_split_needs_another_selection():
    message = (
        "config: diagnosis.training.selection: validation_loss needs validation patients, which the "
        "published split (folds.protocol: published) does not have; set 'selection: last'"
    )
    with pytest.raises(ConfigError) as caught:
        load_config({"folds": {"protocol": "published"}})
    assert str(caught.value) == message
    load_config({"folds": {"protocol": "published"}, "diagnosis": {"training": {"selection": "last"}}})


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config({"run": {"sed": 1, "shards": 0}, "stuff": 1})
    assert [line[:40] for line in str(caught.value).splitlines() if line.startswith("config")] == [
        "config: 3 problems",
        "config: 'run.shards' is 0; expected: who",
        "config: unknown key 'run.sed'; did you m",
        "config: unknown key 'stuff'; delete it o",
    ]


def test_a_required_key(monkeypatch):
    class Needed(BaseModel):
        """A configuration with a key that has no default."""

        folder: str

    monkeypatch.setattr(config_check, "Config", Needed)
    with pytest.raises(ConfigError, match=r"^config: 'folder' is missing; add it$"):
        load_config({})


def test_long_sections_are_cut_short():
    values = dict.fromkeys("abcdefghijkl", 1)
    with pytest.raises(ConfigError, match=r"h: 1\n      \.\.\.$"):
        load_config({"encodr": values})


def test_defaults_and_values():
    assert load_config({}) == Config()
    assert load_config({"folds": {"n_splits": 3}}).folds.n_splits == 3


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "folds.n_splits",
            "folds.n_splits: whole number, at least 2; default: `5`. Outer folds (not `leave_one_site_out`).",
        ),
        (
            "diagnosis.models.any.cmsa.heads",
            "diagnosis.models.any.cmsa.heads: whole number, at least 1; default: `4`. Attention heads; "
            "they must divide the model's channels.",
        ),
        ("imaging.stain", "imaging.stain: section. Stain normalisation."),
        (
            "diagnosis.models.any",
            "diagnosis.models.any: One model of the diagnosis track; each is trained on every fold.",
        ),
        (
            "cohort.folder",
            "cohort.folder: text, or empty; default: empty. Folder of the sheets and the images; "
            "needed for `sheets` and `crops`. `s3://bucket/path` is read from a bucket "
            "([storage.md](storage.md)).",
        ),
    ],
)
def test_field_help(path, text):
    assert field_help(path) == text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folds.n_split", "config: there is no key 'folds.n_split'; did you mean 'n_splits'?"),
        ("fold.n_splits", "config: there is no key 'fold'; did you mean 'folds'?"),
        (
            "diagnosis.models.a.qqq",
            "config: there is no key 'diagnosis.models.a.qqq'; the keys are kind, modalities, task",
        ),
        ("folds.n_splits.x", "config: there is no key 'folds.n_splits.x'"),
    ],
)
def test_field_help_of_an_unknown_key(path, message):
    with pytest.raises(ConfigError) as caught:
        field_help(path)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("net", "diagnosis.explanations.models: 'net' is a logistic_regression on pooled features"),
        ("other", "diagnosis.explanations.models: there is no model 'other'; the models are net"),
    ],
)
def test_only_networks_are_explained(named: str, expected: str) -> None:
    models = {"net": {"kind": "logistic_regression"}}
    raw = {"diagnosis": {"models": models, "explanations": {"enabled": True, "models": [named]}}}
    with pytest.raises(ConfigError, match=expected):
        load_config(raw)
    raw["diagnosis"]["explanations"]["enabled"] = False
    assert load_config(raw).diagnosis.explained == []


DEFAULT = {"few_shot": {"adapted": {"zero": {"method": "zero_shot"}}}}


@pytest.mark.parametrize(
    ("laid_over", "names"),
    [
        ({}, ["zero"]),
        ({"few_shot": {"runs": 3}}, ["zero"]),
        ({"few_shot": {"adapted": {"mine": {"method": "clap"}}}}, ["mine"]),
        ({"cohort": {"source": "sheets", "folder": "x"}}, []),
        (
            {
                "cohort": {"source": "sheets", "folder": "x"},
                "few_shot": {"adapted": {"mine": {"method": "clap"}}},
            },
            ["mine"],
        ),
    ],
)
def test_adapted_models_of_the_default_file_are_the_phantoms(laid_over, names):
    raw = {
        "cohort": laid_over.get("cohort", {}),
        "few_shot": {
            **laid_over.get("few_shot", {}),
            "adapted": DEFAULT["few_shot"]["adapted"] | laid_over.get("few_shot", {}).get("adapted", {}),
        },
    }
    assert list(load_config(raw, laid_over).few_shot.adapted) == names
