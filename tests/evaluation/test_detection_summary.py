"""The summary of a finder: every field once, intervals over slides, comparison on the same fields."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from glomflow.cohort.finder_folds import finder_folds
from glomflow.config import Evaluation
from glomflow.errors import GlomflowError
from glomflow.evaluation.detection import FieldDetections
from glomflow.evaluation.detection_summary import (
    FinderSummary,
    check_tested,
    compare_finders,
    finder_summary,
)

SETTINGS = Evaluation(bootstrap=200)


def disc(x, y, radius=10.0):
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


PLACES = [(30.0, 30.0), (70.0, 30.0), (30.0, 70.0)]


def searched(missed=(), wrong=(), slides=4, fields=2, patients=None):
    """Fields of three glomeruli; one fewer found in ``missed``, one more in ``wrong`` (image names)."""
    result = []
    for slide in range(slides):
        for number in range(fields):
            image = f"s{slide}f{number}"
            found = [disc(*place) for place in PLACES]
            found = found[1:] if image in missed else found
            found += [disc(75, 75)] if image in wrong else []
            result.append(
                FieldDetections(
                    image=image,
                    patient=f"p{slide if patients is None else patients[slide]}",
                    slide=f"s{slide}",
                    fold=str(slide % 2),
                    width=100,
                    height=100,
                    um_per_px=2.0,
                    annotated=[disc(*place) for place in PLACES],
                    found=found,
                    scores=[0.9 - 0.1 * place for place in range(len(found))],
                )
            )
    return result


def folds_of(fields):
    rows = [
        {"fold": fold, "image": field.image, "split": "test" if field.fold == fold else "train"}
        for fold in sorted({field.fold for field in fields})
        for field in fields
    ]
    return pd.DataFrame(rows)


def summarised(fields, **options):
    return finder_summary(fields, folds_of(fields), SETTINGS, seed=1, **options)


def pooled(summary):
    return summary.metrics[summary.metrics["fold"] == "pooled"].set_index("metric")


def test_metrics_over_all_fields_and_their_numbers():
    metrics = pooled(summarised(searched(missed=["s0f0", "s1f0"], wrong=["s2f1"])))
    assert metrics.loc["recall", "value"] == pytest.approx(22 / 24)
    assert metrics.loc["precision", "value"] == pytest.approx(22 / 23)
    assert metrics.loc["mean_iou", "value"] == pytest.approx(1.0)
    assert metrics.loc["count_bias", "value"] == pytest.approx((-1 - 1 + 1 + 0) / 4)
    sizes = metrics.iloc[0][["fields", "slides", "groups", "annotated", "found"]].tolist()
    assert sizes == [8, 4, 4, 24, 23]
    assert set(metrics["border"]) == {"count"}


def test_intervals_hold_the_value_and_resample_slides_whole():
    metrics = pooled(summarised(searched(missed=["s0f0", "s0f1"])))
    row = metrics.loc["recall"]
    assert row["interval"] == "slides"
    # Slide 0, drawn never to four times: recall 1 to 2/3 in steps of a twelfth.
    assert row["lower"] <= row["value"] <= row["upper"]
    assert row["upper"] == 1.0
    assert row["lower"] == pytest.approx(0.75, abs=0.01)


def test_slides_of_one_patient_are_resampled_together():
    fields = searched(missed=["s0f0"], patients=[0, 0, 1, 1])
    fields = [dataclasses.replace(field, fold=str(int(field.patient[1:]))) for field in fields]
    metrics = pooled(summarised(fields))
    assert metrics.loc["recall", ["slides", "groups"]].tolist() == [4, 2]


def test_a_finder_without_a_mistake_gets_an_interval_that_does_not_collapse():
    metrics = pooled(summarised(searched()))
    row = metrics.loc["ap50"]
    assert (row["value"], row["interval"]) == (1.0, "wilson")
    assert row["lower"] == pytest.approx(0.5101, abs=1e-4)
    assert metrics.loc["count_bias", "interval"] == "none"


def test_one_slide_gives_no_interval():
    fields = searched(slides=1, missed=["s0f0"])
    metrics = pooled(summarised(fields))
    assert metrics.loc["recall", "value"] == pytest.approx(5 / 6)
    assert set(metrics["interval"]) == {"none"}
    assert metrics["lower"].isna().all()


def test_metrics_fold_by_fold():
    metrics = summarised(searched(missed=["s0f0"])).metrics
    recall = metrics[metrics["metric"] == "recall"].set_index("fold")["value"]
    assert recall.to_dict() == pytest.approx({"pooled": 23 / 24, "0": 11 / 12, "1": 1.0})


def test_a_row_per_field_and_per_slide():
    summary = summarised(searched(missed=["s0f0"], wrong=["s0f1"]))
    first, second = summary.fields.head(2).to_dict("records")
    assert (first["annotated"], first["found"], first["hits"], first["missed"], first["wrong"]) == (
        3,
        2,
        2,
        1,
        0,
    )
    assert first["dice"] == pytest.approx(2 * 2 / 5)
    assert (second["found"], second["wrong"], second["missed"]) == (4, 1, 0)
    counts = summary.counts.set_index("slide")
    assert counts.loc["s0", ["fields", "annotated", "found"]].tolist() == [2, 6, 6]


def test_the_curve_is_kept_at_two_overlaps():
    curve = summarised(searched()).curve
    assert curve["iou"].unique().tolist() == [0.5, 0.75]
    assert curve.iloc[2][["score", "precision", "recall"]].tolist() == pytest.approx([0.7, 1, 1])


def test_a_row_per_outline_with_what_became_of_it():
    fields = searched(missed=["s0f0"], wrong=["s0f0"])
    cut = disc(98, 60)
    fields[0] = dataclasses.replace(fields[0], annotated=[*fields[0].annotated, cut])
    rows = summarised(fields, border="ignore").outlines
    own = rows[rows["image"] == "s0f0"]
    assert own.groupby(["kind", "outcome"]).size().to_dict() == {
        ("annotated", "hit"): 2,
        ("annotated", "left_out"): 1,
        ("annotated", "missed"): 1,
        ("found", "hit"): 2,
        ("found", "wrong"): 1,
    }
    wrong = own[own["outcome"] == "wrong"].iloc[0]
    assert wrong["score"] == pytest.approx(0.7)
    assert np.isnan(wrong["iou"])
    assert json.loads(wrong["points"])[0] == [85.0, 75.0]


def test_fields_in_another_order_give_the_same_summary():
    fields = searched(missed=["s1f1"])
    first, second = summarised(fields), summarised(fields[::-1])
    pd.testing.assert_frame_equal(first.metrics, second.metrics)


def test_cut_glomeruli_are_left_out_on_request():
    fields = searched(missed=["s0f0"])
    fields[0] = dataclasses.replace(fields[0], annotated=[*fields[0].annotated, disc(98, 60)])
    counted, ignored = summarised(fields), summarised(fields, border="ignore")
    assert pooled(counted).loc["recall", "annotated"] == 25
    assert pooled(ignored).loc["recall", "annotated"] == 24
    assert ignored.fields["left_out"].sum() == 1
    assert set(ignored.metrics["border"]) == {"ignore"}


def test_fields_where_nothing_was_annotated_or_found():
    fields = [dataclasses.replace(field, annotated=[], found=[], scores=[]) for field in searched()]
    metrics = pooled(summarised(fields))
    assert metrics.loc[["ap50", "dice", "recall"], "value"].isna().all()
    assert metrics.loc["count_bias", "value"] == 0


def test_a_summary_is_read_as_it_was_written(tmp_path):
    summary = summarised(searched(missed=["s0f0"]))
    summary.write(tmp_path)
    again = FinderSummary.read(tmp_path)
    pd.testing.assert_frame_equal(again.metrics, summary.metrics, check_dtype=False)
    (tmp_path / "curve.parquet").unlink()
    with pytest.raises(GlomflowError, match=r"missing curve\.parquet; run the evaluation again"):
        FinderSummary.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda fields: fields[1:],
            "image 's0f0' is a test field, but was not searched by the finder of fold 0",
        ),
        (lambda fields: [*fields, fields[0]], "image 's0f0' was searched twice by the finder of fold 0"),
        (
            lambda fields: [dataclasses.replace(fields[0], fold="1"), *fields[1:]],
            "image 's0f0' was searched, but is no test field of fold 1",
        ),
    ],
)
def test_every_field_is_searched_once_by_a_finder_that_had_not_seen_it(change, message):
    fields = searched()
    with pytest.raises(GlomflowError, match=message):
        check_tested(change(fields), folds_of(fields))


def test_the_folds_of_a_finder_fit():
    fields = searched()
    frame = pd.DataFrame([{"image": f.image, "patient": f.patient, "slide": f.slide} for f in fields])
    folds = finder_folds(frame, n_splits=2, validation_fraction=0.2, seed=1)
    tests = folds[folds["split"] == "test"].set_index("image")["fold"]
    fields = [dataclasses.replace(field, fold=tests[field.image]) for field in fields]
    assert len(finder_summary(fields, folds, SETTINGS, seed=1).fields) == 8


def test_comparison_on_the_same_fields():
    better, worse = searched(), searched(missed=["s0f0", "s1f1", "s2f0"])
    rows = compare_finders({"ours": better, "peer": worse}, SETTINGS, seed=1).set_index("metric")
    assert rows.loc["recall", ["value", "other_value", "difference"]].tolist() == pytest.approx(
        [1, 7 / 8, 1 / 8]
    )
    assert 0 <= rows.loc["recall", "lower"] < 1 / 8 < rows.loc["recall", "upper"] <= 1 / 6 + 1e-12
    # Three of four slides differ: of 16 ways to swap, those that swap all three or none are as extreme.
    assert rows.loc["recall", "p_value"] == pytest.approx(4 / 16)
    assert rows.loc["precision", "p_value"] == 1.0


def test_few_slides_cannot_show_a_difference():
    better, worse = searched(slides=2), searched(slides=2, missed=["s0f0", "s1f1"])
    row = compare_finders({"ours": better, "peer": worse}, SETTINGS, seed=1).set_index("metric").loc["recall"]
    assert row["p_value"] == pytest.approx(2 / 4)
    assert np.isnan(row["lower"])


def test_many_slides_are_swapped_at_random():
    missed = [f"s{slide}f0" for slide in range(12)]
    pair = {"ours": searched(slides=12), "peer": searched(slides=12, missed=missed)}
    row = compare_finders(pair, SETTINGS, seed=1).set_index("metric").loc["recall"]
    assert row["p_value"] == pytest.approx(1 / 201)


def test_holm_runs_over_the_other_finders():
    finders = {
        "ours": searched(),
        "one": searched(missed=["s0f0"]),
        "two": searched(missed=[f"s{slide}f0" for slide in range(4)]),
    }
    rows = compare_finders(finders, SETTINGS, seed=1)
    recall = rows[rows["metric"] == "recall"].set_index("other")
    assert recall["p_value"].tolist() == pytest.approx([1.0, 2 / 16])
    assert recall["p_holm"].tolist() == pytest.approx([1.0, 4 / 16])


def test_comparison_needs_the_same_fields():
    fields = searched()
    with pytest.raises(GlomflowError, match="'ours' and 'peer' did not search the same fields"):
        compare_finders({"ours": fields, "peer": fields[1:]}, SETTINGS, seed=1)


def test_without_annotated_fields_the_summary_is_empty(tmp_path):
    none = pd.DataFrame({"fold": [], "image": [], "split": []})
    finder_summary([], none, SETTINGS, seed=1).write(tmp_path)
    again = FinderSummary.read(tmp_path)
    assert [len(frame) for frame in (again.metrics, again.fields, again.counts, again.curve)] == [0] * 4


def test_nothing_to_compare_is_refused():
    with pytest.raises(GlomflowError, match="there is no field to evaluate; annotate some images"):
        compare_finders({"ours": [], "peer": []}, SETTINGS, seed=1)
