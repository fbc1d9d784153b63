"""Few-shot methods in words."""

from glomflow.config import Config
from glomflow.report.words_few_shot import image_backbones, image_words, method_labels, method_means

CONFIG = Config.model_validate(
    {
        "vlm": {"backbones": {"phantom": {}, "lite0": {"library": "timm", "stride": 16, "symmetries": True}}},
        "few_shot": {
            "adapted": {
                "probe": {"method": "linear_probe", "backbone": "lite0"},
                "zero": {"method": "zero_shot"},
            },
            "ensembles": {"both": ["probe", "colour_texture"]},
        },
    }
)


def test_an_image_encoder_is_not_called_a_vision_language_model() -> None:
    assert method_means(CONFIG, "probe") == "linear probe on the image encoder lite0"
    assert method_means(CONFIG, "zero") == "zero-shot on the vision-language model phantom"
    assert list(image_backbones(CONFIG)) == ["lite0"]
    assert image_words("lite0", CONFIG.vlm.backbones["lite0"]) == (
        "lite0 is the encoder without a text tower: the map of stride 16 px, averaged within 0.8 of half the "
        "edge from the middle, over eight turned and mirrored views"
    )


def test_an_ensemble_is_named_by_its_members() -> None:
    assert method_labels(CONFIG)["both"] == "ensemble both"
    assert method_means(CONFIG, "both") == (
        "the ensemble both of linear probe on the image encoder lite0 and logistic regression on colour and "
        "texture"
    )
