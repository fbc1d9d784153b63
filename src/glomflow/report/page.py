"""The report: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from glomflow.config import Config
from glomflow.files import write_text
from glomflow.report import (
    sections_costs,
    sections_data,
    sections_diagnosis,
    sections_explanations,
    sections_finder,
    sections_glomeruli,
    sections_stage,
)
from glomflow.report.blocks import Section
from glomflow.report.material import Material, ReportInputs
from glomflow.report.numbers import count
from glomflow.report.pictures import known
from glomflow.report.provenance import provenance_section
from glomflow.report.sections_methods import methods_section

__all__ = ["ReportInputs", "build_report", "sections"]

PHANTOM_NOTICE = (
    "Phantom cohort. The images were drawn by a program, not taken from patients: the numbers show that the "
    "chain works and how much of what was drawn it recovers. They say nothing about people."
)

ORDER: tuple[Callable[[Material], Section | None], ...] = (
    sections_diagnosis.summary_section,
    sections_glomeruli.summary_section,
    sections_data.cohort_section,
    sections_data.quality_section,
    sections_data.stain_section,
    sections_finder.finder_section,
    sections_data.crops_section,
    sections_data.folds_section,
    sections_stage.search_section,
    sections_data.training_section,
    sections_diagnosis.results_section,
    sections_diagnosis.ablation_section,
    sections_diagnosis.missing_section,
    sections_stage.stage_section,
    sections_diagnosis.instances_section,
    sections_explanations.explanations_section,
    sections_glomeruli.few_shot_section,
    methods_section,
    sections_costs.costs_section,
    provenance_section,
)
"""What makes each section, in the order of the page."""


def sections(inputs: ReportInputs, config: Config) -> list[Section]:
    """Makes the sections that the inputs allow.

    Args:
        inputs: The files; sections whose files are absent are left out.
        config: The configuration that they were made with.

    Returns:
        The sections in the order of the page.

    Raises:
        GlomflowError: A file is damaged, or a figure is missing or unknown.
    """
    known(inputs.figures)
    material = Material(inputs, config)
    made = (make(material) for make in ORDER)
    return [section for section in made if section is not None]


def subtitle(inputs: ReportInputs, config: Config) -> str:
    """Says in a line what the report is on."""
    material = Material(inputs, config)
    source = {
        "phantom": "Phantom cohort",
        "sheets": "Cohort from sheets",
        "crops": "Ready-made glomerulus crops",
    }[config.cohort.source]
    parts = [source]
    if material.patients is not None and sections_data.diagnosed(material) is not None:
        parts.append(count(len(material.patients), "patient"))
    if material.inventory is not None:
        parts.append(count(len(material.inventory), "image"))
    return " · ".join(parts)


def build_report(inputs: ReportInputs, config: Config, out: Path) -> None:
    """Writes the report as one HTML file that fetches nothing.

    Args:
        inputs: The files; sections whose files are absent are left out.
        config: The configuration that they were made with.
        out: The page.

    Raises:
        GlomflowError: A file is damaged, or a figure is missing or unknown.
    """
    import jinja2

    source = resources.files("glomflow.report").joinpath("templates/report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(source).render(
        title=config.report.title,
        subtitle=subtitle(inputs, config),
        notice=PHANTOM_NOTICE if config.cohort.source == "phantom" else "",
        sections=sections(inputs, config),
    )
    write_text(out, page)
