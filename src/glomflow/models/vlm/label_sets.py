"""Label sets: the classes and their prompts, from presets, the configuration, or a pathologist's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glomflow.cohort.phantom.captions import LESIONS
from glomflow.config import Config
from glomflow.config_vlm import LabelClass, LabelSet
from glomflow.errors import GlomflowError

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "vlm.labels"

PRESETS: dict[str, dict[str, LabelClass]] = {
    "five_lesion": {
        "atubular": LabelClass(
            name="Atubular Glomeruli", prompts=["A pathology image of atubular glomerulus"]
        ),
        "globally_sclerotic": LabelClass(
            name="Global Glomerulosclerosis", prompts=["A pathology image of globally sclerotic glomerulus"]
        ),
        "ischaemic": LabelClass(
            name="Ischemic Glomeruli", prompts=["A pathology image of ischemic glomerulus"]
        ),
        "segmentally_sclerotic": LabelClass(
            name="Segmental Glomerulosclerosis",
            prompts=["A pathology image of segmentally sclerotic glomerulus"],
        ),
        "viable": LabelClass(name="Viable Glomeruli", prompts=["A pathology image of viable glomerulus"]),
    },
    "sclerosis_stage": {
        "normal": LabelClass(name="Normal", prompts=["A pathology image of a normal glomeruli"]),
        "obsolescent": LabelClass(
            name="Obsolescent", prompts=["A pathology image of a obsolescent glomeruli"]
        ),
        "solidified": LabelClass(name="Solidified", prompts=["A pathology image of a solidified glomeruli"]),
        "disappearing": LabelClass(
            name="Disappearing", prompts=["A pathology image of a disappearing glomeruli"]
        ),
        "non_glomerular": LabelClass(
            name="Non-glomerular", prompts=["A pathology image of non-glomerular tissue"]
        ),
    },
    "phantom": {
        "normal": LabelClass(
            name="Normal",
            prompts=[
                "A glomerulus without sclerosis or crescent, its capillaries open",
                "Unremarkable glomerulus: thin capsule, open capillary loops",
                "Preserved tuft with patent lumens",
            ],
        ),
        "globally_sclerotic": LabelClass(
            name="Globally sclerotic",
            prompts=[
                "A pathology image of a globally sclerotic glomerulus",
                "Obsolete glomerulus, completely replaced by matrix",
                "Global glomerulosclerosis: no open capillary left",
            ],
        ),
        "segmentally_sclerotic": LabelClass(
            name="Segmentally sclerotic",
            prompts=[
                "A pathology image of a segmentally sclerotic glomerulus",
                "A glomerulus with a segmental scar",
                "Focal segmental glomerulosclerosis, adherent to the capsule",
            ],
        ),
        "ischaemic": LabelClass(
            name="Ischaemic",
            prompts=[
                "A pathology image of an ischaemic glomerulus",
                "Collapsed glomerulus with wrinkled capillary walls",
                "Ischaemic shrinkage of the tuft in a wide capsule",
            ],
        ),
        "crescentic": LabelClass(
            name="Crescentic",
            prompts=[
                "A pathology image of a glomerulus with a crescent",
                "Crescentic glomerulonephritis with proliferated cells",
                "Cells fill Bowman's space and compress the capillaries",
            ],
        ),
    },
}
"""Label sets that come with glomflow.

``five_lesion`` and ``sclerosis_stage`` have the published prompts, word for word (Glo-VLMs, arXiv
2508.15960 and 2511.11984). Those of ``phantom`` are worded otherwise than the phantom's captions.
"""


@dataclass(frozen=True)
class Prompts:
    """The prompts of each class.

    Attributes:
        classes: K class names, as the annotations have them.
        names: K names for reports.
        prompts: For each class its sentences.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All sentences, class by class."""
        return [text for texts in self.prompts for text in texts]

    @property
    def owners(self) -> Tensor:
        """Place of each sentence's class, (T,) int64."""
        import torch

        return torch.tensor([place for place, texts in enumerate(self.prompts) for _ in texts])

    def subset(self, classes: Sequence[str]) -> Prompts:
        """Returns the prompts of some classes, in their order.

        Raises:
            GlomflowError: A class has no prompts.
        """
        missing = [name for name in classes if name not in self.classes]
        if missing:
            raise GlomflowError(
                f"{_KEY}: the class {_listed(missing)} of the annotations has no prompts; the label set has "
                f"{_listed(self.classes)}; add it to {_KEY}.classes or to the folder of prompts"
            )
        places = [self.classes.index(name) for name in classes]
        return Prompts(
            tuple(self.classes[place] for place in places),
            tuple(self.names[place] for place in places),
            tuple(self.prompts[place] for place in places),
        )


def read_prompts(settings: LabelSet) -> Prompts:
    """Gathers the prompts of a label set.

    Args:
        settings: The section.

    Raises:
        GlomflowError: There are fewer than two classes, a class has no prompts or no file, or a prompt is
            there twice. All that is wrong is told at once.
    """
    preset = PRESETS[settings.preset] if settings.preset else {}
    classes = {**preset, **settings.classes}
    if len(classes) < 2:
        raise GlomflowError(f"{_KEY}.classes: there is one class only, {_listed(classes)}; name two or more")
    if settings.folder is not None:
        prompts = _read_folder(Path(settings.folder), list(classes))
    else:
        prompts = {name: _sentences(section, settings.templates) for name, section in classes.items()}
    _check(prompts, settings.folder)
    return Prompts(
        tuple(classes),
        tuple(section.name or name for name, section in classes.items()),
        tuple(tuple(prompts[name]) for name in classes),
    )


def check_labels(config: Config) -> None:
    """Checks the prompts of the adapted models against what the configuration tells of the classes.

    The classes are those of ``few_shot.classes``, or of ``cohort.classes`` if the cohort is of crops, or the
    phantom's lesions; those of annotations are known once the glomeruli are cut.

    Args:
        config: The configuration.

    Raises:
        GlomflowError: A class has no prompts, or the label set is unusable.
    """
    prompts = read_prompts(config.vlm.labels)
    known = {"crops": config.cohort.classes, "phantom": list(LESIONS), "sheets": []}[config.cohort.source]
    prompts.subset(config.few_shot.classes or known)


def write_prompts(prompts: Prompts, folder: Path) -> None:
    """Writes a text file per class, to be edited and read by ``vlm.labels.folder``.

    Args:
        prompts: The sentences.
        folder: The folder; created if need be.
    """
    from glomflow.files import write_text

    for place, name in enumerate(prompts.classes):
        lines = [f"# Prompts of {prompts.names[place]}, one per line.", *prompts.prompts[place]]
        write_text(folder / file_name(name), "\n".join(lines) + "\n")


def file_name(class_name: str) -> str:
    """Returns the name of a class's file: blanks and slashes become ``_``."""
    return "_".join(class_name.replace("/", " ").split()) + ".txt"


def _sentences(section: LabelClass, templates: Sequence[str]) -> list[str]:
    filled = [template.replace("{}", word) for word in section.synonyms for template in templates]
    return [*section.prompts, *filled]


def _read_folder(folder: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    if not folder.is_dir():
        raise GlomflowError(f"{_KEY}.folder: there is no folder {folder}; correct the path")
    files = {file_name(name): name for name in classes}
    problems = [
        f"{folder / file_name(name)} stands for the classes {name} and {files[file_name(name)]}; rename one"
        for name in classes
        if files[file_name(name)] != name
    ]
    problems += [
        f"{folder / file} is missing: prompts of the class {name}"
        for file, name in files.items()
        if not (folder / file).is_file()
    ]
    problems += [
        f"{path} belongs to no class; the classes' files are {_listed(sorted(files))}"
        for path in sorted(folder.glob("*.txt"))
        if path.name not in files
    ]
    raise_problems(problems)
    return {name: _read_file(folder / file) for file, name in files.items()}


def _read_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GlomflowError(f"{path} cannot be read ({error}); save it as UTF-8 text") from error
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _check(prompts: Mapping[str, Sequence[str]], folder: str | None) -> None:
    """Raises a GlomflowError that tells of every class without prompts and of every repeated prompt."""

    def place(name: str) -> str:
        return str(Path(folder) / file_name(name)) if folder else f"{_KEY}.classes.{name}"

    problems = [
        f"{place(name)} has no prompt; write at least one sentence"
        for name, texts in prompts.items()
        if not any(text.strip() for text in texts)
    ]
    seen: dict[str, str] = {}
    for name, texts in prompts.items():
        for text in texts:
            plain = " ".join(text.lower().split())
            if plain in seen:
                problems.append(f"{place(name)}: '{text}' is in {place(seen[plain])} already; remove one")
            seen.setdefault(plain, name)
    raise_problems(problems)


def raise_problems(problems: Sequence[str]) -> None:
    """Raises a GlomflowError that tells of all problems, if there is any."""
    if len(problems) == 1:
        raise GlomflowError(problems[0])
    if problems:
        lines = [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
        raise GlomflowError("\n".join([f"{len(problems)} problems with the prompts:", *lines]))


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names)
