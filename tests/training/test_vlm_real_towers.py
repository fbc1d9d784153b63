"""Every fine-tuning method, and learned prompts, on towers of open_clip and transformers: tiny, random."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from glomflow.config_vlm import VlmBackbone
from glomflow.models.vlm.backbone import Backbone, load_backbone
from glomflow.models.vlm.methods.base import class_text
from glomflow.models.vlm.methods.registry import TUNED_METHODS, feature_method, tuned_method
from glomflow.models.vlm.methods.tuned import Cut, TunedMethod
from glomflow.training.vlm_batched import fit
from glomflow.training.vlm_cache import ActivationCache, module_digest
from glomflow.training.vlm_finetune import TunedRun, tune
from models.test_vlm_backbone import LAYOUTS
from models.test_vlm_transformers import write_model
from vlm_fake import PROMPTS, crops_of, make_shots

LABELS = torch.arange(24) % 3
CROPS = crops_of(LABELS).numpy().repeat(2, axis=1).repeat(2, axis=2)
SHOTS = make_shots(LABELS, [3])


@pytest.fixture(scope="module", params=["clip", "coca", "transformers"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    if request.param == "transformers":
        write_model(folder, 49407)
        given = {"library": "transformers", "weights": f"file:{folder}"}
    else:
        path = folder / "architecture.json"
        path.write_text(json.dumps(LAYOUTS[request.param]))
        given = {"architecture": str(path), "weights": "random"}
    return load_backbone("tiny", VlmBackbone.model_validate(given), offline=True)


def method_of(name: str) -> TunedMethod:
    changes = {"vision_blocks": 1, "text_blocks": 1} if name == "vanilla" else {}
    if name == "adapter":
        changes = {"blocks": (-1,), "dropout": 0.1, "bottleneck": 8}
    recipe = replace(tuned_method(name).settings.recipe, epochs=2, lr=1e-3, batch_size=4)
    return tuned_method(name, recipe=recipe, **changes)


def trained(method: TunedMethod, backbone: Backbone, vision: int) -> tuple[TunedRun, torch.Tensor]:
    hidden = ActivationCache(None).hidden(backbone, CROPS, vision)
    run = next(tune(method, backbone, hidden, SHOTS, PROMPTS))
    return run, run.predict(hidden)[0].softmax(dim=1)


@pytest.mark.parametrize("name", TUNED_METHODS)
def test_from_the_cut_as_from_the_stem(name: str, backbone: Backbone) -> None:
    before = module_digest(backbone)
    method = method_of(name)
    cut = method.cut(backbone)
    run, found = trained(method, backbone, cut.vision)
    assert module_digest(backbone) == before
    method.cut = lambda _: Cut(0, None if cut.text is None else 0)
    blocks = method_of(name)
    method.attached, method.training = blocks.attached, blocks.training
    _, expected = trained(method, backbone, 0)
    assert float((found - expected).abs().max()) < 1e-5
    frozen = fit(
        feature_method("zero_shot"),
        ActivationCache(None).features(backbone, CROPS),
        SHOTS,
        class_text(PROMPTS, backbone),
    )
    start = frozen.logits(ActivationCache(None).features(backbone, CROPS))[0].softmax(dim=1)
    assert float((found - start).abs().max()) > 1e-4
    assert module_digest(backbone) == before
    assert run.state


def test_learned_prompts(backbone: Backbone) -> None:
    table = ActivationCache(None).features(backbone, CROPS)
    method = feature_method("coop", context=4)
    recipe = replace(method.settings.recipe, epochs=3, lr=0.1)
    text = class_text(PROMPTS, backbone)
    found = fit(feature_method("coop", context=4, recipe=recipe), table, SHOTS, text)
    assert found.class_text(0).shape == (3, backbone.dim)
    assert np.isfinite(found.logits(table).numpy()).all()
