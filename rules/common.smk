# Names and functions that all rules share.
import functools
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

from glomflow.code_digest import Library
from glomflow.config import FINE_TUNED
from glomflow.config_check import load_config
from glomflow.cohort.bucket import bucket_at, expose_s3_settings, is_bucket
from glomflow.cohort.fetch import as_params, downloads_by_shard, is_fetched, missing
from glomflow.cohort.fingerprint import (
    Fingerprints,
    require_sheets,
    shard_rows,
    sheet_fingerprint,
    sheet_sites,
)
from glomflow.cohort.phantom.sites import SITES as PHANTOM_SITES
from glomflow.environment import expose_library
from glomflow.errors import CohortError, ConfigError, GlomflowError
from glomflow.evaluation.detection_summary import TABLES as FINDER_TABLES
from glomflow.evaluation.explanations import TABLES as EXPLANATION_CHECKS
from glomflow.evaluation.few_shot_schemas import TABLES as FEW_SHOT_SCHEMAS
from glomflow.evaluation.summary_schemas import TABLES
from glomflow.repeated_inputs import without_repeats
from glomflow.models.vlm.label_sets import check_labels

BASE = Path(workflow.basedir)
expose_library(BASE / "src")

try:
    CONFIG = load_config(dict(config), workflow.config_settings.overwrite_config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

R = CONFIG.run.results.rstrip("/")
SHARDS = [f"{number:04d}" for number in range(CONFIG.run.shards)]
MODELS = list(CONFIG.diagnosis.models)
TASKS = CONFIG.diagnosis.tasks
SEEDS = CONFIG.diagnosis.training.seeds
DIAGNOSIS = "diagnosis" in CONFIG.run.tracks
FEW_SHOT = "glomeruli" in CONFIG.run.tracks
PHANTOM = CONFIG.cohort.source == "phantom"
FOLDER = f"{R}/phantom" if PHANTOM else CONFIG.cohort.folder
if is_bucket(FOLDER):
    FOLDER = FOLDER.rstrip("/")
FINGERPRINTS = Fingerprints(FOLDER)
SEARCH = CONFIG.diagnosis.search.trials > 0
MODELS_OF = {task: list(CONFIG.diagnosis.models_of(task)) for task in TASKS}
# Networks that can lack a modality, by task.
PARTIAL = {task: CONFIG.diagnosis.partial_of(task) for task in TASKS}
PARTIAL = {
    task: names
    for task, names in PARTIAL.items()
    if names and CONFIG.evaluation.missing_curve
}
STORES = ["om", "im", "tem"] if DIAGNOSIS else ["om"]
FITTED = ["om"] if CONFIG.imaging.stain.fitted_per_fold else []
FITTED += ["im"] if CONFIG.imaging.im.fitted_per_fold else []
PICTURES = ["worst_images", "stain_panels"]
PICTURES += ["crops_om", "crops_im", "crops_tem"] if DIAGNOSIS else []
PICTURES += ["lesions"] if FEW_SHOT else []
CURVES = ["cohort_overview", "training_curves"]
if "disease" in TASKS:
    CURVES += ["confusion_matrix", "roc_curves", "reliability"]
    CURVES += ["ablation"] if len(MODELS_OF["disease"]) > 1 else []
    CURVES += ["missing_curve"] if "disease" in PARTIAL else []
if "stage" in TASKS:
    CURVES += ["stage_confusion"]
    CURVES += ["stage_ablation"] if len(MODELS_OF["stage"]) > 1 else []
INSTANCES = any("TEM" in model.modalities for model in CONFIG.diagnosis.models.values())
FINDER_CURVES = ["finder_precision_recall", "finder_counts"]
FINDER_JUDGED = CONFIG.imaging.finder.enabled
FEW_SHOT_TABLES = list(FEW_SHOT_SCHEMAS)
FINDER = CONFIG.imaging.finder
EXPLAINED = CONFIG.diagnosis.explained if DIAGNOSIS else []
EXPLANATION_TABLES = list(EXPLANATION_CHECKS)
EXPLANATION_CURVES = ["explanation_checks", "explanation_contributions"]
FINDERS = [*map(str, range(FINDER.n_splits)), "all"] if FINDER.model == "train" else []


# What a run with storage needs to know: the shards' tables are read from it by jobs only.
SCRATCH = (
    tempfile.TemporaryDirectory(prefix="glomflow-sheets-")
    if is_bucket(FOLDER)
    else None
)
SHEETS_ONLY = is_bucket(FOLDER) or (
    workflow.storage_settings.default_storage_provider is not None
)
S3 = workflow.storage_provider_settings.get("s3")
if S3 is not None and S3.get_settings(None) is not None:
    expose_s3_settings(S3.get_settings(None).endpoint_url, S3.get_settings(None).region)
if is_bucket(FOLDER):
    # Jobs on a cluster read the workflow anew; they need not list the cohort again.
    LISTING = Path(".snakemake") / "glomflow-bucket.json"
    bucket_at(FOLDER).share_listing(LISTING, workflow.is_main_process)


ADAPTED = CONFIG.few_shot.adapted if FEW_SHOT else {}
BACKBONES = list(dict.fromkeys(model.backbone for model in ADAPTED.values()))
# A backbone without a text tower has nothing that its patches could be compared with.
TEXT_BACKBONES = [name for name in BACKBONES if CONFIG.vlm.backbones[name].has_text]
SIMILARITY = [f"similarity_maps-{name}" for name in TEXT_BACKBONES]
FEW_SHOT_CURVES = ["few_shot_curves", "few_shot_confusion", "few_shot_reliability"]
PHANTOM_VLM = any(CONFIG.vlm.backbones[name].is_phantom for name in BACKBONES)

try:
    if TEXT_BACKBONES:
        check_labels(CONFIG)
except GlomflowError as error:
    raise WorkflowError(f"config: {error}") from None


wildcard_constraints:
    backbone="|".join(BACKBONES) or "()",
    adapted="|".join(["features", *ADAPTED]),
    shard=r"\d{4}",
    modality=r"(om|im|tem)(_fold\d+)?",
    encoder="|".join(["()", *(f"{name}/" for name in CONFIG.encoders)]),
    model="|".join(MODELS),
    task="disease|stage",
    fold=r"\d+",
    seed=r"\d+",
    finder=r"\d+|all",


def result(path):
    """A file below the results folder; the path may hold wildcards."""
    return f"{R}/{path}"


def records():
    """Where the plan of a run lies, and what its jobs say of themselves: beside the results."""
    settings = workflow.storage_settings
    if settings.default_storage_provider is None:
        return R
    # As Snakemake joins them.
    prefix = settings.default_storage_prefix
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return f"{prefix or ''}{os.path.normpath(R)}"


RECORDS = records()


def phantom(path):
    """A file of the phantom cohort, which stays here wherever the results go."""
    return local(result(f"phantom/{path}"))


def cohort_folder(wildcards):
    """The folder that paths in the sheets are relative to."""
    return FOLDER


LIBRARY = Library(BASE / "src", Path(".snakemake") / "glomflow-code.json")


@functools.cache
def code(script):
    """Digest of the library code that a script reaches: Snakemake sees the script only."""
    return LIBRARY.digest(BASE / "workflow_scripts" / script)


def sheet_rows(wildcards):
    """Digest of the rows of the image sheet that belong to a shard."""
    if PHANTOM:
        return "phantom"
    return shard_rows(sheet_files()[-1:], int(wildcards.shard), CONFIG.run.shards)


def cohort_params():
    """What reading the sheets depends on."""
    return {
        "settings": dump(CONFIG.cohort),
        "folder": cohort_folder,
        "n_splits": CONFIG.folds.least_patients,
        "shards": CONFIG.run.shards,
        "diagnosis": DIAGNOSIS,
    }


def stain_targets(wildcards):
    """The cohort's targets, where they are not fixed beforehand; then the crops wait for all slides."""
    return (
        [result("stain_targets.parquet")]
        if CONFIG.imaging.stain.target == "cohort_median"
        else []
    )


def fingerprint(wildcards):
    """Sizes and times of a shard's image files, so that a changed file reruns its shard.

    Rules that use it have a message: to print it, Snakemake looks at the parameters once more before it sends
    the job away. Without, it would remember them as they were before the table was written.
    """
    if SHEETS_ONLY:
        return stored_fingerprint(int(wildcards.shard))
    return FINGERPRINTS.of(f"{R}/cohort/images/{wildcards.shard}.parquet")


def stored_fingerprint(shard=None):
    """The same where the shards' tables are in storage, or the images in a bucket."""
    try:
        return sheet_fingerprint(sheet_files()[-1], FOLDER, CONFIG.run.shards, shard)
    except GlomflowError as error:
        raise WorkflowError(str(error)) from None


def dump(section):
    """A section of the configuration, as a rule's parameter."""
    return section.model_dump(mode="json")


def encoder_section(name):
    """The section of an encoder; an empty name or 'default' is the section 'encoder'."""
    return CONFIG.encoders[name] if name in CONFIG.encoders else CONFIG.encoder


def frozen_section(name):
    """An encoder's section without what of it is trained afterwards."""
    section = encoder_section(name)
    return section.model_dump(mode="json", exclude={"trainable", "shared"})


def frozen_encoder(wildcards):
    """What cached features depend on."""
    return frozen_section(wildcards.encoder.rstrip("/"))


def frozen_weights(wildcards):
    """The file that a frozen encoder's weights come from, if the configuration names one."""
    return encoder_weights([wildcards.encoder.rstrip("/")])


def is_frozen(model):
    """Whether a model reads cached features instead of crops."""
    return CONFIG.is_frozen(CONFIG.diagnosis.models[model])


def gpus(wildcards):
    """A GPU for the models that train their encoders."""
    return 0 if is_frozen(wildcards.model) else 1


def encoder_names(model):
    """The encoders of a model, by modality."""
    section = CONFIG.diagnosis.models[model]
    return {name: CONFIG.encoder_name(section, name) for name in section.modalities}


def features_folder(encoder):
    """Where an encoder's features lie, in 'features/'."""
    return f"{encoder}/" if encoder in CONFIG.encoders else ""


def store(modality, suffix):
    """Files of a crop store, one per shard."""
    return expand(f"{R}/crops/{modality}/{{shard}}.{suffix}", shard=SHARDS)


def model_inputs(wildcards):
    """What a model reads: indices, with crops or, where its encoders are frozen, cached features."""
    files = {}
    for modality, encoder in encoder_names(wildcards.model).items():
        modality = modality.lower()
        # Colours that are fitted on training patients make the crops of each fold its own.
        name = f"{modality}_fold{wildcards.fold}" if modality in FITTED else modality
        files[f"{modality}_index"] = store(name, "parquet")
        if not is_frozen(wildcards.model):
            files[f"{modality}_crops"] = store(name, "npy")
        else:
            files[f"{modality}_features"] = expand(
                f"{R}/features/{features_folder(encoder)}{name}/{{shard}}.npy",
                shard=SHARDS,
            )
    return files


def all_subset_inputs(wildcards):
    """What the models of a task read that can lack a modality, by model."""
    files = {}
    for place, model in enumerate(PARTIAL[wildcards.task]):
        own = model_inputs(SimpleNamespace(model=model, fold=wildcards.fold))
        files |= {f"model{place}_{name}": paths for name, paths in own.items()}
    return files


def subset_inputs(wildcards):
    """The same, each file once."""
    return without_repeats(all_subset_inputs(wildcards))[0]


def subset_repeats(wildcards):
    """What several of these models read: name to the input that stands for it."""
    return without_repeats(all_subset_inputs(wildcards))[1]


def subset_files(what, wildcards):
    """Weights, settings or search results of these models, by model and seed."""
    fold, models = wildcards.fold, PARTIAL[wildcards.task]
    if what == "searches":
        pattern = result("search/{model}/fold{fold}.json")
        return expand(pattern, model=models, fold=fold) if SEARCH else []
    suffix = {"weights": "safetensors", "settings": "json"}[what]
    pattern = result(f"models/{{model}}/fold{{fold}}_seed{{seed}}.{suffix}")
    return expand(pattern, model=models, fold=fold, seed=SEEDS)


def sheet_names():
    """File names of the sheets that a cohort is described by; that of the images is the last."""
    if CONFIG.cohort.source == "crops":
        return [CONFIG.cohort.labels]
    if PHANTOM:
        return ["patients.csv", "images.csv"]
    return [CONFIG.cohort.patients, CONFIG.cohort.images]


def sheets():
    """The sheets as inputs."""
    if PHANTOM:
        return [phantom(name) for name in sheet_names()]
    find_sheets()
    if is_bucket(FOLDER):
        return [storage.s3(f"{FOLDER}/{name}") for name in sheet_names()]
    return [local(f"{FOLDER}/{name}") for name in sheet_names()]


@functools.cache
def find_sheets():
    """Stops before any job if a sheet is missing."""
    try:
        require_sheets(FOLDER, sheet_names())
    except GlomflowError as error:
        raise WorkflowError(str(error)) from None


@functools.cache
def sheet_files():
    """The sheets as files that can be read while the workflow starts."""
    if not is_bucket(FOLDER):
        return [f"{FOLDER}/{name}" for name in sheet_names()]
    find_sheets()
    scratch = Path(SCRATCH.name)
    for name in sheet_names():
        bucket_at(FOLDER).fetch(name, scratch / name)
    return [str(scratch / name) for name in sheet_names()]


def addressed():
    """The files of each shard that the sheet gives an address for."""
    if PHANTOM:
        return {}
    try:
        found = downloads_by_shard(sheet_files()[-1], FOLDER, CONFIG.run.shards)
    except GlomflowError as error:
        raise WorkflowError(str(error)) from None
    return {f"{shard:04d}": files for shard, files in sorted(found.items())}


def fetched(shard):
    """What is noted of a shard's fetched files; it lies beside the cohort's other local files."""
    return result(f"fetched/{shard}.json")


def fetched_manifest(wildcards):
    """The same as an input, where a shard has such files."""
    return [local(fetched(wildcards.shard))] if wildcards.shard in ADDRESSED else []


def fetched_manifests():
    """Those of all shards."""
    return [local(fetched(shard)) for shard in ADDRESSED]


def still_to_fetch():
    """The shards whose files are not all in place; no others have a rule that fetches."""
    try:
        shards = [
            shard
            for shard, files in ADDRESSED.items()
            if not is_fetched(files, FOLDER, fetched(shard))
        ]
    except GlomflowError as error:
        raise WorkflowError(str(error)) from None
    absent = [one for shard in shards for one in missing(ADDRESSED[shard], FOLDER)]
    if absent and CONFIG.run.offline:
        raise WorkflowError(
            f"run.offline is true, and {len(absent)} files of {sheet_names()[-1]} are still to be fetched "
            f"(row {absent[0].row}: {absent[0].url}); set run.offline: false, or put them into {FOLDER}"
        )
    return shards


def addresses(wildcards):
    """The files of a shard that have to be fetched."""
    absent = missing(ADDRESSED[wildcards.shard], FOLDER)
    return [storage.http(one.url) for one in absent]


def stain_reference():
    """The images that colours are matched to, if any; the phantom's are no declared outputs."""
    stain = CONFIG.imaging.stain
    if PHANTOM or stain.method == "none" or stain.target != "reference":
        return []
    advice = "write its path relative to the cohort folder"
    if is_bucket(FOLDER):
        return [storage.s3(f"{FOLDER}/{name}") for name in stain.reference_images]
    return [
        existing("imaging.stain.reference", Path(FOLDER) / name, advice)
        for name in stain.reference_images
    ]


def encoder_weights(names):
    """The files that encoders' weights come from, where the configuration names any."""
    files = {}
    for name in names:
        key = f"encoders.{name}" if name in CONFIG.encoders else "encoder"
        source, _, path = encoder_section(name).weights.partition(":")
        if source == "file":
            files[key] = existing(
                f"{key}.weights", Path(path), "correct the path after 'file:'"
            )
    return list(files.values())


def trained_weights(wildcards):
    """The files that the encoders start from which a model trains."""
    if is_frozen(wildcards.model):
        return []
    return encoder_weights(encoder_names(wildcards.model).values())


def finder_encoder_weights():
    """The file that the finder's encoder starts from, if the configuration names one."""
    source, _, path = FINDER.encoder.weights.partition(":")
    if source != "file":
        return []
    advice = "correct the path after 'file:'"
    return [existing("imaging.finder.encoder.weights", Path(path), advice)]


def finder_model():
    """The file of a finder that is brought along, if the configuration names one."""
    source, _, path = FINDER.model.partition(":")
    if source != "file":
        return []
    return [
        existing("imaging.finder.model", Path(path), "correct the path after 'file:'")
    ]


def finder_files(suffix):
    """The trained finders: one per fold and one of all annotated fields."""
    return expand(f"{R}/finder/models/{{finder}}.{suffix}", finder=FINDERS)


def finder_settings(*keys):
    """What a job needs of the finder's section, and no more."""
    return FINDER.model_dump(mode="json", include=set(keys))


def finder_fingerprint(wildcards):
    """Sizes and times of the fields that a finder learns from."""
    if SHEETS_ONLY:
        return stored_fingerprint()
    return FINGERPRINTS.of(f"{R}/finder/training/{wildcards.finder}.parquet")


def found_glomeruli(table):
    """What the finder found in a shard, where it is enabled."""
    return [result(f"finder/{table}/{{shard}}.parquet")] if FINDER.enabled else []


def existing(key, path, advice):
    """A file that the configuration names; stops before any job if it is not there."""
    if not path.is_file():
        raise WorkflowError(f"config: {key}: there is no file {path}; {advice}")
    return local(str(path))


def trained(pattern, models=MODELS):
    """A file per model, fold and seed."""
    return expand(pattern, model=models, fold=FOLDS, seed=SEEDS)


def predicted(wildcards):
    """The predictions of the models of a task."""
    pattern = result("predictions/{model}/fold{fold}_seed{seed}.parquet")
    return trained(pattern, MODELS_OF[wildcards.task])


def fold_table(split, task):
    """The training (or test) patients of a fold for a task; the fold is a wildcard."""
    name = "" if task == "disease" else f"{task}."
    return result(f"folds/fold{{fold}}.{name}{split}.parquet")


def model_table(split):
    """The same for the task of a job's model."""

    def path(wildcards):
        task = CONFIG.diagnosis.models[wildcards.model].task
        return fold_table(split, task).format(fold=wildcards.fold)

    return path


def left_out_sites():
    """The sites that are left out in turn, if they are: the folds are counted before any job runs."""
    folds = CONFIG.folds
    if folds.protocol != "leave_one_site_out" or not DIAGNOSIS:
        return []
    if folds.sites or PHANTOM:
        return folds.sites or [site.name for site in PHANTOM_SITES]
    try:
        return sheet_sites(sheet_files()[0])
    except CohortError as error:
        raise WorkflowError(str(error)) from None


def search_results(wildcards):
    """What the search chose for a model and fold, if there was one."""
    name = f"search/{wildcards.model}/fold{wildcards.fold}.json"
    return [result(name)] if SEARCH else []


ADDRESSED = addressed()
UNFETCHED = still_to_fetch()
FOLDS = list(range(CONFIG.folds.count(left_out_sites()))) if DIAGNOSIS else []
RUNS = [(model, fold, seed) for model in MODELS for fold in FOLDS for seed in SEEDS]


def model_settings(model):
    """What a training or prediction job needs of the configuration, and no more."""
    used = set(encoder_names(model).values())
    return {
        "cohort": dump(CONFIG.cohort),
        "encoder": dump(CONFIG.encoder) if used - set(CONFIG.encoders) else {},
        "encoders": {
            name: dump(section)
            for name, section in CONFIG.encoders.items()
            if name in used
        },
        "run": {"seed": CONFIG.run.seed, "offline": CONFIG.run.offline},
        "diagnosis": {
            "models": {model: dump(CONFIG.diagnosis.models[model])},
            "loss": dump(CONFIG.diagnosis.loss),
            "training": dump(CONFIG.diagnosis.training),
        },
    }


def explain_settings(model):
    """What an explanation depends on beyond its model."""
    settings = model_settings(model)
    keys = {"attribution", "steps", "randomised"}
    settings["diagnosis"]["explanations"] = CONFIG.diagnosis.explanations.model_dump(
        mode="json", include=keys
    )
    return settings


def explained(suffix):
    """A file per explained model, fold and seed."""
    return expand(
        f"{R}/explanations/{{model}}/fold{{fold}}_seed{{seed}}{suffix}",
        model=EXPLAINED,
        fold=FOLDS,
        seed=SEEDS,
    )


def explanation_files():
    """What the explain jobs wrote."""
    return {
        "explanation_maps": explained(".npy"),
        "explanation_index": explained(".parquet"),
        "explanation_contributions": explained(".contributions.parquet"),
        "explanation_curves": explained(".curves.parquet"),
    }


def explanation_checks_settings():
    """What the checks of explanations depend on."""
    sizes = {
        name: {"size": getattr(CONFIG.imaging, name).size} for name in ("om", "tem")
    }
    return {**evaluation_settings(), "imaging": sizes}


def search_settings(model):
    """What a search needs of the configuration, and no more."""
    settings = model_settings(model)
    settings["diagnosis"]["search"] = dump(CONFIG.diagnosis.search)
    return settings


def evaluation_settings():
    """What the metrics depend on."""
    return {
        "run": {"seed": CONFIG.run.seed},
        "cohort": dump(CONFIG.cohort),
        "folds": dump(CONFIG.folds),
        "diagnosis": {
            "models": {
                name: model.model_dump(mode="json", exclude={"encoders"})
                for name, model in CONFIG.diagnosis.models.items()
            },
            # The published folds are refused without the selection that they need.
            "training": {"selection": CONFIG.diagnosis.training.selection},
        },
        "evaluation": dump(CONFIG.evaluation),
    }


def figures(names, suffix, category):
    """Figure files that Snakemake's own report shows with their captions."""
    captioned = functools.partial(report, category=category)
    captions = BASE / "rules" / "captions"
    return [
        captioned(
            f"{R}/figures/{name}.{suffix}",
            caption=str(captions / f"{name.partition('-')[0]}.rst"),
        )
        for name in names
    ]


def picture_inputs():
    """What the figures of images are drawn from; of colours fitted per fold, those of the first."""
    files = {
        "patients": f"{R}/cohort/patients.parquet",
        "inventory": f"{R}/inventory.parquet",
    }
    for modality in STORES:
        name = f"{modality}_fold0" if modality in FITTED else modality
        files[f"{modality}_crops"] = store(name, "npy")
        files[f"{modality}_index"] = store(name, "parquet")
    return files


def metrics_files(task):
    """The tables of a task's evaluation, and its settings."""
    return [f"{R}/metrics/{task}/{name}.parquet" for name in TABLES] + [
        f"{R}/metrics/{task}/summary.json"
    ]


def report_inputs():
    """What the report is written from, by track."""
    files = picture_inputs()
    files["stain_profiles"] = expand(f"{R}/stain/{{shard}}.parquet", shard=SHARDS)
    shown = [f"{R}/figures/{name}.png" for name in PICTURES]
    if PHANTOM:
        files["phantom"] = phantom("phantom.json")
    if DIAGNOSIS:
        files["folds"] = f"{R}/folds/folds.parquet"
        files["folds_json"] = f"{R}/folds/folds.json"
        files["histories"] = trained(
            f"{R}/models/{{model}}/fold{{fold}}_seed{{seed}}.history.parquet"
        )
        for task in TASKS:
            files[f"metrics_{task}"] = metrics_files(task)
            if task in PARTIAL:
                files[f"missing_{task}"] = f"{R}/metrics/{task}/missing.parquet"
        files["trained"] = expand(
            f"{R}/models/{{model}}/fold0_seed{SEEDS[0]}.json", model=MODELS
        )
        if SEARCH:
            files["searches"] = expand(
                f"{R}/search/{{model}}/fold{{fold}}.json", model=MODELS, fold=FOLDS
            )
        shown += [f"{R}/figures/{name}.svg" for name in CURVES]
        shown += [f"{R}/figures/instance_panels.png"] if INSTANCES else []
        if PHANTOM and INSTANCES:
            files["deposit_hits"] = f"{R}/metrics/deposits.parquet"
    if EXPLAINED:
        files["explanation_checks"] = [
            f"{R}/explanations/{name}.parquet" for name in EXPLANATION_TABLES
        ]
        shown += [f"{R}/figures/explanation_panels.png"]
        shown += [f"{R}/figures/{name}.svg" for name in EXPLANATION_CURVES]
    if FEW_SHOT:
        files["few_shot"] = [f"{R}/few_shot/{name}.parquet" for name in FEW_SHOT_TABLES]
        files["few_shot_json"] = f"{R}/few_shot/draws.json"
        files["few_shot_geometry"] = few_shot_files("geometry")
        files["similarity_said"] = similarity_files("json")
        shown += [f"{R}/figures/{name}.svg" for name in FEW_SHOT_CURVES]
        shown += [f"{R}/figures/{name}.png" for name in SIMILARITY]
    if FINDER_JUDGED:
        files["finder"] = [
            f"{R}/finder/metrics/{name}.parquet" for name in FINDER_TABLES
        ]
        shown += [f"{R}/figures/finder_outlines.png"]
        shown += [f"{R}/figures/{name}.svg" for name in FINDER_CURVES]
    files["figures"] = shown
    return files


# Where a model's encoders are frozen, one job trains all such models and seeds of a fold, and one predicts:
# each training takes about as long as Python takes to start. Others have a job each.
FROZEN = [model for model in MODELS if is_frozen(model)]
TRAINED = [model for model in MODELS if model not in FROZEN]


def all_job_inputs(models, split, wildcards):
    """What a job reads of a fold: tables, stores and search results of each of its models."""
    found = {}
    for place, model in enumerate(models or [wildcards.model]):
        one = SimpleNamespace(model=model, fold=wildcards.fold)
        own = model_inputs(one) | {"table": model_table(split)(one)}
        own["search"] = search_results(one)
        found |= {f"model{place}_{name}": paths for name, paths in own.items()}
    return found


def job_inputs(models, split):
    """The same, each file once."""
    return lambda wildcards: without_repeats(all_job_inputs(models, split, wildcards))[
        0
    ]


def job_repeats(models, split):
    """What several models of a job read: name to the input that stands for it."""
    return lambda wildcards: without_repeats(all_job_inputs(models, split, wildcards))[
        1
    ]


def job_configs(wildcards):
    """The configuration of each model of a job."""
    models = [wildcards.model] if "model" in wildcards.keys() else FROZEN
    return {model: model_settings(model) for model in models}


def frozen_files(pattern):
    """A file per frozen model and seed; the fold stays a wildcard."""
    path = result(f"{pattern.replace('{fold}', '{{fold}}')}")
    return expand(path, model=FROZEN, seed=SEEDS)


def draw_settings():
    """What the draws of slides and labelled glomeruli depend on."""
    unread = {"adapted", "ensembles", "methods", "l2"}
    return CONFIG.few_shot.model_dump(mode="json", exclude=unread)


def backbone_inputs(wildcards):
    """What a job of a vision-language model reads: crops, and the weights that are files."""
    section = CONFIG.vlm.backbones[wildcards.backbone]
    source, _, path = section.weights.partition(":")
    files = {"crops": store("om", "npy"), "indices": store("om", "parquet")}
    if not section.has_text:
        return files
    if source == "phantom":
        files["phantom"] = [
            result("vlm/phantom/open_clip_model.safetensors"),
            result("vlm/phantom/open_clip_config.json"),
        ]
    if source == "file":
        key = f"vlm.backbones.{wildcards.backbone}.weights"
        advice = section.access or "correct the path after 'file:'"
        if not Path(path).exists():
            raise WorkflowError(f"config: {key}: there is no {path}; {advice}")
        files["weights"] = [local(path)]
    return files


def encoding_inputs(wildcards):
    """What encoding reads besides: of an image encoder, the maps of the features rule or its weights."""
    files = backbone_inputs(wildcards)
    section = CONFIG.vlm.backbones[wildcards.backbone]
    if section.has_text:
        return files
    if not section.pools_maps:
        return files | {"weights": encoder_weights([section.encoder])}
    path = f"{R}/features/{features_folder(section.encoder)}om/{{shard}}.npy"
    return files | {"maps": expand(path, shard=SHARDS)}


def prompt_files():
    """The files of a folder of prompts, if the configuration names one."""
    folder = CONFIG.vlm.labels.folder
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise WorkflowError(
            f"config: vlm.labels.folder: there is no folder {folder}; correct the path"
        )
    return [local(str(path)) for path in sorted(Path(folder).glob("*.txt"))]


def checked_prompts(wildcards):
    """The checked prompts of a backbone, if it has a text tower."""
    if wildcards.backbone not in TEXT_BACKBONES:
        return []
    return result("vlm/{backbone}/prompts.json")


def prompt_settings(backbone):
    """What checking the prompts of a backbone depends on."""
    section = dump(CONFIG.vlm.backbones[backbone])
    return {
        "run": {"offline": CONFIG.run.offline},
        "few_shot": {"classes": CONFIG.few_shot.classes},
        "vlm": {
            "labels": dump(CONFIG.vlm.labels),
            "backbones": {backbone: section},
            "pretraining": dump(CONFIG.vlm.pretraining),
        },
    }


def vlm_settings(backbone, models=()):
    """What a job of a vision-language model needs of the configuration, and no more.

    Without models it encodes crops; what only adapting them depends on is left out.
    """
    few_shot, vlm = {"classes": CONFIG.few_shot.classes}, {}
    settings = {"run": {"offline": CONFIG.run.offline}}
    if models:
        unread = {"ensembles", "methods", "l2"}
        few_shot = CONFIG.few_shot.model_dump(mode="json", exclude=unread)
        few_shot["adapted"] = {name: dump(ADAPTED[name]) for name in models}
        vlm = {"labels": dump(CONFIG.vlm.labels), "umap": CONFIG.vlm.umap}
        settings["run"]["seed"] = CONFIG.run.seed
        settings["evaluation"] = {"ece_bins": CONFIG.evaluation.ece_bins}
    vlm["backbones"] = {backbone: dump(CONFIG.vlm.backbones[backbone])}
    vlm["batch_size"] = CONFIG.vlm.batch_size
    if not CONFIG.vlm.backbones[backbone].has_text:
        name = CONFIG.vlm.backbones[backbone].encoder
        own = frozen_section(name)
        settings |= {"encoder": own} if name == "default" else {"encoders": {name: own}}
    return settings | {"few_shot": few_shot, "vlm": vlm}


def similarity_settings(wildcards):
    """What the maps of patches and texts depend on."""
    settings = vlm_settings(wildcards.backbone)
    settings["vlm"]["labels"] = dump(CONFIG.vlm.labels)
    return settings


def similarity_files(suffix):
    """A file per backbone that has a text tower."""
    return expand(f"{R}/vlm/{{backbone}}/similarity.{suffix}", backbone=TEXT_BACKBONES)


def adapted_jobs():
    """The jobs of adapted models: (backbone, 'features' or a model's name) to the models."""
    jobs = {}
    for name, model in ADAPTED.items():
        own = name if model.method in FINE_TUNED else "features"
        jobs.setdefault((model.backbone, own), []).append(name)
    return jobs


def adapted_names(wildcards):
    """The models of a job."""
    return adapted_jobs()[wildcards.backbone, wildcards.adapted]


def few_shot_files(what):
    """The predictions of all few-shot jobs, or what else adapted models tell of their runs."""
    files = (
        [result(f"few_shot/predictions/images.parquet")]
        if what == "predictions"
        else []
    )
    for backbone, own in adapted_jobs():
        files.append(result(f"few_shot/{what}/{backbone}-{own}.parquet"))
    return files


def ensemble_files():
    """The predictions of ensembles, if there are any."""
    path = result("few_shot/predictions/ensembles.parquet")
    return [path] if CONFIG.few_shot.ensembles else []
