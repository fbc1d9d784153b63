"""Label sets, prompt files and the ensembling of class texts."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from glomflow.cohort.phantom import captions
from glomflow.config_vlm import LabelSet
from glomflow.errors import GlomflowError
from glomflow.models.vlm.backbone import Backbone, TextTower, Tower
from glomflow.models.vlm.preprocessing import Preprocessing
from glomflow.models.vlm.prompts import encode_prompts, ensemble, read_prompts, write_prompts

TWO = {"preset": None, "classes": {"a": {"prompts": ["one"]}, "b": {"prompts": ["two"]}}}


class CountingText(TextTower):
    """Embeds a text as its number of words and of letters."""

    blocks = nn.ModuleList()

    def token_embeddings(self, tokens: Tensor) -> Tensor:
        return tokens[..., None].float()

    def embedded(self, embeddings: Tensor) -> Tensor:
        return embeddings

    def head(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        used = (hidden[..., 0] != 0).float().sum(dim=1)
        return torch.stack([used, hidden[..., 0].sum(dim=1)], dim=1)

    def _block(self, block: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
        return hidden


def backbone() -> Backbone:
    tower: Tower = CountingText()
    return Backbone(
        "counting",
        tower,
        CountingText(),
        dim=2,
        logit_scale=torch.tensor(0.0),
        context_length=5,
        preprocessing=Preprocessing(8),
        tokeniser=lambda text: [len(word) for word in text.split()],
    )


def label_set(**values: object) -> LabelSet:
    return LabelSet.model_validate(TWO | values)


def test_published_prompts_are_word_for_word() -> None:
    five = read_prompts(LabelSet(preset="five_lesion"))
    assert five.names == (
        "Atubular Glomeruli",
        "Global Glomerulosclerosis",
        "Ischemic Glomeruli",
        "Segmental Glomerulosclerosis",
        "Viable Glomeruli",
    )
    assert five.texts[1] == "A pathology image of globally sclerotic glomerulus"
    stages = read_prompts(LabelSet(preset="sclerosis_stage"))
    assert stages.texts[0] == "A pathology image of a normal glomeruli"
    assert stages.texts[4] == "A pathology image of non-glomerular tissue"
    assert len(stages.classes) == 5


def test_prompts_of_the_phantom_are_no_captions() -> None:
    prompts = read_prompts(LabelSet())
    assert prompts.classes == captions.LESIONS
    findings = {text.lower() for texts in captions._FINDINGS.values() for text in texts}
    for text in prompts.texts:
        assert not any(text.lower().rstrip(".") in found or found in text.lower() for found in findings)


def test_templates_are_filled_with_synonyms() -> None:
    section = label_set(
        templates=["a {}", "an image of a {}"],
        classes={"a": {"prompts": ["one"], "synonyms": ["x", "y"]}, "b": {"synonyms": ["z"]}},
    )
    prompts = read_prompts(section)
    assert prompts.prompts == (
        ("one", "a x", "an image of a x", "a y", "an image of a y"),
        ("a z", "an image of a z"),
    )
    assert prompts.owners.tolist() == [0] * 5 + [1] * 2
    with pytest.raises(ValidationError, match="templates"):
        label_set(templates=["no place"])


def test_classes_replace_and_extend_those_of_a_preset() -> None:
    given = {"viable": {"prompts": ["a healthy one"]}, "torn": {"prompts": ["a torn one"], "name": "Torn"}}
    prompts = read_prompts(LabelSet.model_validate({"preset": "five_lesion", "classes": given}))
    assert prompts.classes[-2:] == ("viable", "torn")
    assert prompts.names[-2:] == ("viable", "Torn")
    assert prompts.prompts[-2:] == (("a healthy one",), ("a torn one",))


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    prompts = read_prompts(LabelSet())
    write_prompts(prompts, tmp_path)
    assert read_prompts(LabelSet(folder=str(tmp_path))) == prompts
    (tmp_path / "normal.txt").write_text("# a comment\n\n  an open tuft  # another\nthin loops\n")
    assert read_prompts(LabelSet(folder=str(tmp_path))).prompts[0] == ("an open tuft", "thin loops")


def test_everything_wrong_with_a_folder_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "b_c.txt").write_text("x\n")
    (tmp_path / "d.txt").write_text("x\n")
    section = label_set(classes={"a": {}, "b c": {}}, folder=str(tmp_path))
    with pytest.raises(GlomflowError) as caught:
        read_prompts(section)
    assert "2 problems" in str(caught.value)
    assert "a.txt is missing: prompts of the class a" in str(caught.value)
    assert "d.txt belongs to no class; the classes' files are a.txt, b_c.txt" in str(caught.value)
    (tmp_path / "d.txt").unlink()
    with pytest.raises(GlomflowError, match=r"b_c\.txt stands for the classes b c and b_c; rename one"):
        read_prompts(label_set(classes={"b c": {}, "b_c": {}}, folder=str(tmp_path)))
    with pytest.raises(GlomflowError, match="there is no folder"):
        read_prompts(label_set(folder=str(tmp_path / "nowhere")))


def test_an_empty_file_and_a_repeated_prompt_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# nothing yet\n")
    (tmp_path / "b.txt").write_text("The same\nthe  SAME\n")
    with pytest.raises(GlomflowError) as caught:
        read_prompts(label_set(folder=str(tmp_path)))
    assert "a.txt has no prompt" in str(caught.value)
    assert "'the  SAME' is in" in str(caught.value)
    with pytest.raises(GlomflowError, match=r"vlm\.labels\.classes\.b: 'one' is in vlm\.labels\.classes\.a"):
        read_prompts(label_set(classes={"a": {"prompts": ["one"]}, "b": {"prompts": ["one"]}}))


def test_a_single_class_and_none_are_refused() -> None:
    with pytest.raises(GlomflowError, match="one class only, a"):
        read_prompts(label_set(classes={"a": {"prompts": ["one"]}}))
    with pytest.raises(ValidationError, match="name a preset"):
        LabelSet(preset=None)


def test_a_class_of_the_annotations_without_prompts_is_named() -> None:
    prompts = read_prompts(label_set())
    assert prompts.subset(["b"]).texts == ["two"]
    with pytest.raises(GlomflowError, match=r"the class c of the annotations has no prompts.*has a, b"):
        prompts.subset(["a", "c"])


def test_class_texts_are_means_of_unit_embeddings() -> None:
    section = label_set(classes={"a": {"prompts": ["xx", "xxx x"]}, "b": {"prompts": ["y"]}})
    encoded = encode_prompts(read_prompts(section), backbone())
    parts = functional.normalize(torch.tensor([[1.0, 2.0], [2.0, 4.0], [1.0, 1.0]]), dim=1)
    torch.testing.assert_close(encoded.embeddings, parts)
    torch.testing.assert_close(encoded.text[1], parts[2])
    mean = (parts[0] + parts[1]) / 2
    torch.testing.assert_close(encoded.text[0], mean / mean.norm())
    assert encoded.tokens.shape == (3, 5)
    assert encoded.classes == ("a", "b")


def test_long_prompts_weigh_no_more_and_runs_are_batched() -> None:
    embeddings = functional.normalize(
        torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    owners = torch.tensor([0, 1, 1])
    batched = ensemble(embeddings, owners, 2)
    for run in range(4):
        torch.testing.assert_close(batched[run], ensemble(embeddings[run], owners, 2))
    torch.testing.assert_close(batched[:, 0], embeddings[:, 0])


def test_all_prompts_that_are_too_long_are_named() -> None:
    section = label_set(
        classes={"a": {"prompts": ["1 2 3 4 5 6", "short"]}, "b": {"prompts": ["1 2 3 4 5 6 7"]}}
    )
    with pytest.raises(GlomflowError) as caught:
        encode_prompts(read_prompts(section), backbone())
    assert "2 problems" in str(caught.value)
    assert "prompt '1 2 3 4 5 6': counting takes 5 tokens, it has 6" in str(caught.value)
    assert "it has 7" in str(caught.value)
