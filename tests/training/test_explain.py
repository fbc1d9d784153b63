"""Explanations of predictions: closed forms, missing modalities, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from glomflow import config
from glomflow.errors import GlomflowError
from glomflow.models.base import PatientNet
from glomflow.models.batch import Batch, Pooled
from glomflow.models.outputs import Outputs
from glomflow.tables import read_table
from glomflow.tables_explanations import CONTRIBUTIONS, CURVES, MAPS
from glomflow.training.attribution import grad_cam, integrated_gradients
from glomflow.training.deletion import removal_curve, token_order
from glomflow.training.explain import Explained, explain_fold, subset_probabilities
from glomflow.training.predict import predict_fold
from glomflow.training.shapley import shapley_values
from training.synthetic import CLASSES, make_stores, settings, train, train_table

PATIENTS = 18
LACKING = {"OM": {13, 14}, "IM": {14, 15}, "TEM": {14, 16}}
TESTED = ["p17", "p13", "p14", "p15", "p16"]
EXPLAINED = {"p17": ("OM", "IM", "TEM"), "p13": ("IM", "TEM"), "p15": ("OM", "TEM"), "p16": ("OM", "IM")}


def gather(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (maps * mask[..., None, None, None]).sum(1).flatten(1, 2)


class Linear(PatientNet):
    """Class 0 gets 3 F_0 - F_1, averaged over tokens and summed over OM's instances; TEM enters twice."""

    heads = ("fusion",)
    static_pooling = True

    def pool(self, batch: Batch) -> Pooled:
        tokens = {
            name: (self.standardised(name, maps) * batch.masks[name][..., None, None, None])
            .sum(1)
            .flatten(1, 2)
            for name, maps in batch.maps.items()
        }
        return Pooled(tokens, {name: mask.any(1) for name, mask in batch.masks.items()}, {}, {})

    def classify(self, pooled: Pooled) -> Outputs:
        weights = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
        factor = {"OM": 1.0, "TEM": 2.0}
        logits = sum(factor[name] * tokens.mean(1) @ weights.T for name, tokens in pooled.tokens.items())
        return Outputs({"fusion": logits}, {"fusion": torch.ones(len(logits), dtype=torch.bool)})


def linear(*modalities: str, standardise: bool = False) -> Linear:
    model = config.Model(modalities=list(modalities), standardise=standardise)
    return Linear(model, dict.fromkeys(modalities, 2), 2).eval()


def bag(*instances: list[list[list[float]]]) -> torch.Tensor:
    return torch.tensor([instances])


ONE = bag([[[2.0, 4.0], [1.0, -1.0]], [[0.0, 5.0], [-2.0, 0.0]]])
"""One instance of 2x2 tokens and two channels."""


def masks(**maps: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: torch.ones(values.shape[:2], dtype=torch.bool) for name, values in maps.items()}


def test_grad_cam_of_a_linear_network() -> None:
    # The gradient is (3, -1) / 4 at every token: ReLU((3 F0 - F1) / 4).
    found = grad_cam(linear("OM"), {"OM": ONE}, masks(OM=ONE), torch.tensor([0]))
    assert found["OM"].tolist() == [[[[0.5, 1.0], [0.0, 0.0]]]]
    other = grad_cam(linear("OM"), {"OM": ONE}, masks(OM=ONE), torch.tensor([1]))
    assert other["OM"].tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]


def test_grad_cam_holds_the_weight_of_a_modality() -> None:
    found = grad_cam(linear("TEM", "OM"), {"TEM": ONE, "OM": ONE}, masks(TEM=ONE, OM=ONE), torch.tensor([0]))
    torch.testing.assert_close(found["TEM"], 2 * found["OM"])


def test_integrated_gradients_of_a_linear_network() -> None:
    pytest.importorskip("captum")
    found = integrated_gradients(linear("OM"), {"OM": ONE}, masks(OM=ONE), 0, 4)
    torch.testing.assert_close(found["OM"], torch.tensor([[[[0.5, 1.0], [-1.25, -1.5]]]]))


def test_maps_are_of_standardised_features() -> None:
    net = linear("OM", standardise=True)
    net.set_standardisation({"OM": (torch.tensor([10.0, 20.0]), torch.tensor([2.0, 4.0]))})
    raw = Batch({"OM": torch.tensor([10.0, 20.0]) + ONE * torch.tensor([2.0, 4.0])}, masks(OM=ONE))
    seen = net.standardised("OM", raw.maps["OM"])
    torch.testing.assert_close(seen, ONE)
    found = grad_cam(net, {"OM": seen}, raw.masks, torch.tensor([0]))
    torch.testing.assert_close(found["OM"], torch.tensor([[[[0.5, 1.0], [0.0, 0.0]]]]))


def test_deletion_by_a_perfect_map_falls_faster_than_at_random() -> None:
    net, maps = linear("OM"), {"OM": bag([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])}
    net.standardise = False
    own = masks(OM=maps["OM"])
    order = token_order({"OM": maps["OM"][..., 0]}, np.arange(4))
    assert order.tolist() == [0, 1, 2, 3]
    best = removal_curve(net, maps, own, order, 0, 4)
    worst = removal_curve(net, maps, own, order[::-1].copy(), 0, 4)
    sigmoid = 1 / (1 + np.exp(-3.0))
    # Without standardisation a token goes to the mean of the patient's own, F_0 = 1.
    assert best[0] == pytest.approx(sigmoid)
    assert best[1] == pytest.approx(1 / (1 + np.exp(-0.75)))
    assert worst[-1] == pytest.approx(best[-1])
    assert best[:-1].mean() < worst[:-1].mean()


def test_equal_values_are_ordered_by_the_tie_breaks() -> None:
    order = token_order({"OM": torch.tensor([[[[1.0, 2.0], [1.0, 1.0]]]])}, np.array([3, 0, 1, 2]))
    assert order.tolist() == [1, 2, 3, 0]


def test_shapley_values_of_an_additive_game() -> None:
    gains = {"OM": 0.1, "IM": 0.2, "TEM": -0.05}
    worth = {
        subset: 0.3 + sum(gains[name] for name in subset)
        for subset in map(frozenset, [(), ("OM",), ("IM",), ("TEM",), ("OM", "IM"), ("OM", "TEM")])
    }
    worth[frozenset({"IM", "TEM"})], worth[frozenset(gains)] = 0.45, 0.55
    assert shapley_values(list(gains), worth) == pytest.approx(gains)


def test_shapley_values_share_an_interaction_equally() -> None:
    # The glove game: the left hand and either right hand are worth 1 together.
    worth = {frozenset(s): float({"L"} < set(s)) for s in ["", "L", "R", "S", "LR", "LS", "RS", "LRS"]}
    assert shapley_values("LRS", worth) == pytest.approx({"L": 2 / 3, "R": 1 / 6, "S": 1 / 6})
    assert shapley_values(["A"], {frozenset(): 0.25, frozenset("A"): 0.75}) == {"A": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("explain")
    stores = make_stores(folder, PATIENTS, lacking=LACKING)
    configuration = settings(epochs=25)
    return train(folder, stores, configuration), stores, configuration


def explained_by(weights: Path, stores, configuration: config.Config, patients=TESTED) -> Explained:
    table = train_table()
    return explain_fold(
        patients,
        table,
        stores,
        configuration,
        "net",
        2,
        7,
        weights,
        weights.with_name("s.json"),
        device="cpu",
    )


def with_options(configuration: config.Config, **options: object) -> config.Config:
    diagnosis = configuration.diagnosis.model_copy(update={"explanations": config.Explanations(**options)})
    return configuration.model_copy(update={"diagnosis": diagnosis})


@pytest.fixture(scope="module")
def explained(trained) -> Explained:
    return explained_by(*trained)


def test_every_instance_of_a_present_modality_has_a_map(explained: Explained, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("m.npy", "i.parquet", "c.parquet", "d.parquet")]
    explained.write(*files)
    maps, index = np.load(files[0]), read_table(files[1], MAPS)
    assert maps.shape == (len(index), 7, 7)
    assert maps.dtype == np.float32
    cams = index[(index["kind"] == "grad_cam") & (index["draw"] == 0)]
    for patient, modalities in EXPLAINED.items():
        own = cams[cams["patient"] == patient]
        assert list(dict.fromkeys(own["modality"])) == [n for n in ("TEM", "OM", "IM") if n in modalities]
    assert cams[cams["patient"] == "p17"]["crop"].tolist() == [
        "TEM-p17-2", "TEM-p17-1", "TEM-p17-0", "OM-p17-1", "IM-p17-1",
    ]  # fmt: skip
    assert (maps[cams["row"]] >= 0).all()
    np.testing.assert_allclose(maps[cams["row"]].mean((1, 2)), cams["value"], rtol=1e-5)
    assert set(index["draw"]) == {0, 1}
    assert "p14" not in set(index["patient"])


def test_attention_maps_sum_to_one_where_tem_can_ask(explained: Explained) -> None:
    index = pd.DataFrame(explained.index)
    attention = index[(index["kind"] == "cmsa") & (index["draw"] == 0)]
    assert list(attention[["patient", "modality"]].itertuples(index=False, name=None)) == [
        ("p17", "OM"), ("p17", "IM"), ("p13", "IM"), ("p15", "OM"),
    ]  # fmt: skip
    for row in attention.index:
        assert explained.maps[row].sum() == pytest.approx(1.0, abs=1e-5)


def test_contributions_sum_to_the_probability_less_the_prior(explained: Explained, trained, tmp_path) -> None:
    contributions = pd.DataFrame(explained.contributions)
    weights, stores, configuration = trained
    predictions, _ = predict_fold(
        TESTED, stores, configuration, "net", 2, 7, weights, weights.with_name("s.json"), device="cpu"
    )
    by_patient = predictions.set_index("patient")
    assert set(contributions["patient"]) == set(EXPLAINED)
    for patient, own in contributions.groupby("patient"):
        row = own.iloc[0]
        assert set(own["modality"]) == set(EXPLAINED[patient])
        assert own["contribution"].sum() == pytest.approx(row["p_all"] - row["p_empty"], abs=1e-12)
        assert row["predicted"] == by_patient.loc[patient, "predicted"]
        assert row["p_all"] == pytest.approx(by_patient.loc[patient, f"p_{row['predicted']}"], abs=1e-6)
        assert row["p_empty"] == pytest.approx(1 / 3)
    assert contributions["completeness"].isna().all()


def test_curves_start_and_end_where_they_must(explained: Explained) -> None:
    curves = pd.DataFrame(explained.curves)[list(CURVES)]
    own = curves[curves["patient"] == "p17"].pivot_table(
        index="share", columns=["order", "direction"], values="probability"
    )
    assert len(own) == 33
    whole = pd.DataFrame(explained.contributions).set_index("patient").loc["p17", "p_all"].iloc[0]
    for order in ("map", "random"):
        assert own[order, "deletion"].iloc[0] == pytest.approx(whole, abs=1e-5)
        assert own[order, "insertion"].iloc[-1] == pytest.approx(whole, abs=1e-5)
        assert own[order, "deletion"].iloc[-1] == pytest.approx(own[order, "insertion"].iloc[0], abs=1e-5)


def test_the_same_again_gives_the_same(explained: Explained, trained) -> None:
    again = explained_by(*trained, patients=["p13"])
    mine = [n for n, row in enumerate(explained.index) if row["patient"] == "p13"]
    np.testing.assert_allclose(np.stack(again.maps), np.stack([explained.maps[n] for n in mine]), atol=1e-6)


def test_integrated_gradients_are_complete(trained) -> None:
    pytest.importorskip("captum")
    weights, stores, configuration = trained
    configuration = with_options(configuration, attribution="integrated_gradients", steps=16)
    found = explained_by(weights, stores, configuration, ["p17", "p16"])
    gaps = pd.DataFrame(found.contributions)["completeness"]
    assert gaps.abs().max() < 0.05
    assert {row["kind"] for row in found.index} == {"integrated_gradients", "cmsa"}


@pytest.mark.parametrize("attribution", ["grad_cam", "integrated_gradients"])
def test_a_trained_encoder_is_explained_on_its_feature_grid(tmp_path: Path, attribution: str) -> None:
    if attribution == "integrated_gradients":
        pytest.importorskip("captum")
    stores = make_stores(tmp_path, 6, size=64)
    configuration = settings(encoder={"name": "resnet10t", "trainable": "all", "shared": True}, epochs=1)
    configuration = with_options(configuration, attribution=attribution, steps=3)
    weights = train(tmp_path, stores, configuration, table=train_table(6, 2))
    found = explained_by(weights, stores, configuration, ["p05"])
    assert {part.shape for part in found.maps} == {(2, 2)}
    assert sum(row["draw"] == 0 and row["kind"] == attribution for row in found.index) == 5


def test_a_model_of_one_modality_has_no_attention(tmp_path: Path) -> None:
    stores = make_stores(tmp_path)
    configuration = settings(model={"modalities": ["IM"]}, epochs=2)
    found = explained_by(train(tmp_path, stores, configuration), stores, configuration, ["p00"])
    assert {(row["kind"], row["modality"]) for row in found.index} == {("grad_cam", "IM")}
    (row,) = found.contributions
    assert row["contribution"] == pytest.approx(row["alone"] - row["p_empty"])


def test_a_fold_without_anything_to_explain_writes_empty_tables(trained, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("m.npy", "i.parquet", "c.parquet", "d.parquet")]
    explained_by(*trained, patients=["p14"]).write(*files)
    assert np.load(files[0]).shape == (0, 1, 1)
    assert len(read_table(files[1], MAPS)) == len(read_table(files[2], CONTRIBUTIONS)) == 0


def test_hidden_modalities_are_as_if_they_lacked() -> None:
    net = linear("TEM", "OM")
    batch = Batch({"TEM": ONE, "OM": ONE}, masks(TEM=ONE, OM=ONE))
    found = subset_probabilities(net, batch, ("TEM", "OM"))
    logit = 3 * 0.25 - 2.0
    expected = {("TEM",): 2 * logit, ("OM",): logit, ("OM", "TEM"): 3 * logit}
    assert set(found) == set(map(frozenset, expected))
    for names, value in expected.items():
        assert float(found[frozenset(names)][0]) == pytest.approx(1 / (1 + np.exp(-value)))


def test_models_on_pooled_features_are_refused(trained) -> None:
    weights, stores, configuration = trained
    model = configuration.diagnosis.models["net"].model_copy(update={"kind": "logistic_regression"})
    diagnosis = configuration.diagnosis.model_copy(update={"models": {"net": model}})
    message = "diagnosis.explanations.models: 'net' is a logistic_regression on pooled features"
    with pytest.raises(GlomflowError, match=message):
        explained_by(weights, stores, configuration.model_copy(update={"diagnosis": diagnosis}))


def test_the_prior_is_of_training_patients_only() -> None:
    from glomflow.training.explain import class_shares

    table = pd.DataFrame({"split": ["train"] * 4 + ["validation"], "label": ["MN", "MN", "MN", "LN", "IgAN"]})
    assert class_shares(table, CLASSES) == {"IgAN": 0.0, "MN": 0.75, "LN": 0.25}
