"""Usable images without a crop are accounted for; captions speak of the truth of a phantom only."""

import dataclasses

import pytest
from PIL import Image

from glomflow.config import Cohort, Config
from glomflow.report.material import Material
from glomflow.report.page import sections
from glomflow.report.sections_data import accounted, cohort_section, exclusion_sentences
from glomflow.tables import CROPS, INVENTORY, read_table, write_table


@pytest.fixture
def without_one(made_up_run, tmp_path):
    """The material of a run in which one patient's IM images gave no crop, and the patient."""
    inventory = read_table(made_up_run.inputs.inventory, INVENTORY)
    usable = inventory[(inventory["status"] == "ok") & (inventory["modality"] == "IM")]
    patient = str(usable["patient"].iloc[0])
    npy, index = made_up_run.inputs.im_store[0]
    crops = read_table(index, CROPS)
    write_table(tmp_path / "im.parquet", crops[crops["patient"] != patient].reset_index(drop=True), CROPS)
    rest = made_up_run.inputs.im_store[1:]
    inputs = dataclasses.replace(made_up_run.inputs, im_store=[(npy, tmp_path / "im.parquet"), *rest])
    return Material(inputs, made_up_run.config), patient


def test_images_without_a_crop_are_left_out_with_the_log_to_read(without_one, made_up_run):
    material, patient = without_one
    rows = accounted(material)
    idle = rows[(rows["patient"] == patient) & (rows["modality"] == "IM")]
    assert set(idle["status"]) == {"no_crop"}
    assert f"logs/im_crops/{idle['shard'].iloc[0]:04d}.log says why" in idle["reason"].iloc[0]
    assert "without a crop" in " ".join(exclusion_sentences(material))
    assert material.inventory["status"].ne("no_crop").all()


def test_the_cohort_section_lists_them(without_one):
    material, patient = without_one
    listed = [row for block in cohort_section(material).blocks for row in getattr(block, "rows", ())]
    assert any(row[0] == patient and "without a crop" in row for row in listed)


@pytest.mark.parametrize(("source", "said"), [("phantom", True), ("sheets", False)])
def test_captions_name_the_truth_of_a_phantom_only(made_up_run, tmp_path, source, said):
    Image.new("L", (8, 8)).save(tmp_path / "any.png")
    inputs = dataclasses.replace(
        made_up_run.inputs, figures=dict.fromkeys(("ablation", "instance_panels"), tmp_path / "any.png")
    )
    cohort = Cohort(source=source, folder="x", classes=made_up_run.config.cohort.classes)
    config: Config = made_up_run.config.model_copy(update={"cohort": cohort})
    captions = [
        str(getattr(block, "caption", "")) for section in sections(inputs, config) for block in section.blocks
    ]
    assert any("ceilings that the modalities set" in text for text in captions) == said
    assert any("outlined in orange" in text for text in captions) == said
