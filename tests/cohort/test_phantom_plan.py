"""The phantom cohort's factors and plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from glomflow.cohort.phantom import PhantomPlan, plan_phantom
from glomflow.cohort.phantom.captions import LESIONS, caption_for
from glomflow.cohort.phantom.factors import (
    CLASSES,
    MODALITIES,
    NONDIAGNOSTIC,
    NONDIAGNOSTIC_TOGETHER,
    appearance_of,
    apportion,
    ceilings,
    cell_probabilities,
    modality_subsets,
    realised_ceilings,
)
from glomflow.cohort.phantom.sites import SITES
from glomflow.config import Phantom
from glomflow.errors import ConfigError


@pytest.fixture(scope="module")
def plan() -> PhantomPlan:
    return plan_phantom(Phantom())


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        ("OM", 0.70),
        ("IM", 0.80),
        ("TEM", 0.85),
        ("OM+IM", 0.90),
        ("OM+TEM", 1 - 2 / 3 * 0.10),
        ("IM+TEM", 1 - 2 / 3 * 0.085),
        ("OM+IM+TEM", 0.99),
    ],
)
def test_ceilings(modalities: str, expected: float) -> None:
    assert ceilings()[modalities] == pytest.approx(expected, abs=1e-8)


def test_cells_are_a_distribution_with_the_stated_margins() -> None:
    cells = cell_probabilities()
    assert sum(cells.values()) == pytest.approx(1)
    assert min(cells.values()) > 0
    for subset in modality_subsets():
        together = sum(p for cell, p in cells.items() if set(subset) <= set(cell))
        assert together == pytest.approx(NONDIAGNOSTIC_TOGETHER[subset])


def test_realised_ceilings_by_hand() -> None:
    seen = [
        ("MN", appearance_of("MN", ())),
        ("LN", appearance_of("LN", ("OM",))),
        ("IgAN", appearance_of("IgAN", ("OM", "IM", "TEM"))),
    ]
    realised = realised_ceilings(seen)
    assert realised["OM"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert realised["OM+IM+TEM"] == pytest.approx((1 + 1 + 1 / 3) / 3)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (10, [0.5, 0.5], [5, 5]),
        (7, [1 / 3, 1 / 3, 1 / 3], [3, 2, 2]),
        (5, [0.1, 0.9], [1, 4]),
        (0, [0.4, 0.6], [0, 0]),
    ],
)
def test_apportion(total: int, shares: list[float], expected: list[int]) -> None:
    assert apportion(total, shares) == expected


def test_default_cohort_is_near_its_ceilings(plan: PhantomPlan) -> None:
    realised, expected = realised_ceilings(plan.seen()), ceilings()
    for modalities, value in expected.items():
        assert abs(realised[modalities] - value) < 0.05


def test_classes_and_sites_are_even(plan: PhantomPlan) -> None:
    assert Counter(p.label for p in plan.patients) == dict.fromkeys(CLASSES, 20)
    by_class = Counter((p.label, p.site) for p in plan.patients)
    assert set(by_class.values()) == {6, 7}
    assert set(Counter(p.site for p in plan.patients).values()) == {20}


def test_nondiagnostic_appearances_are_dealt_alike_to_all_classes(plan: PhantomPlan) -> None:
    for modality in MODALITIES:
        counts = Counter(p.label for p in plan.patients if p.appearance[modality] == NONDIAGNOSTIC)
        assert len(set(counts.values())) == 1
        assert set(counts) == set(CLASSES)


def test_stage_belongs_to_membranous_nephropathy(plan: PhantomPlan) -> None:
    stages = Counter(p.stage for p in plan.patients if p.label == "MN")
    assert set(stages) == {"I", "II", "III"}
    assert max(stages.values()) - min(stages.values()) <= 1
    assert all(p.stage is None for p in plan.patients if p.label != "MN")


def test_order_does_not_tell_the_class(plan: PhantomPlan) -> None:
    labels = [p.label for p in plan.patients]
    assert labels != sorted(labels)
    assert len(set(labels[:10])) == 3


def test_glomeruli(plan: PhantomPlan) -> None:
    for patient in plan.patients:
        if "OM" in patient.missing:
            assert patient.glomeruli == ()
            continue
        lesions = [g.lesion for g in patient.glomeruli]
        assert 4 <= len(lesions) <= 10
        assert lesions.count("normal") * 2 >= len(lesions)
        assert set(lesions) <= set(LESIONS)
    names = [g.name for p in plan.patients for g in p.glomeruli]
    assert len(set(names)) == len(names)


def test_lesions_do_not_depend_on_the_class(plan: PhantomPlan) -> None:
    counts = {
        label: Counter(g.lesion for p in plan.patients if p.label == label for g in p.glomeruli)
        for label in CLASSES
    }
    for lesion in LESIONS[1:]:
        shares = [counts[label][lesion] / counts[label].total() for label in CLASSES]
        assert max(shares) - min(shares) < 0.08


def test_bags_are_sparse(plan: PhantomPlan) -> None:
    for patient in plan.patients:
        if "TEM" in patient.missing:
            assert patient.micrographs == ()
            continue
        count = len(patient.micrographs)
        shown = sum(m.deposits for m in patient.micrographs)
        assert 3 <= count <= 12
        assert 0.2 <= shown / count <= 0.4
        assert all((m.mask is not None) == m.deposits for m in patient.micrographs)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_bags_show_one_image_with_deposits(count: int) -> None:
    plan = plan_phantom(Phantom(tem_images=(count, count), damaged_files=0))
    assert {sum(m.deposits for m in p.micrographs) for p in plan.patients if p.micrographs} == {1}


def test_views_without_deposits_alternate_whatever_the_class(plan: PhantomPlan) -> None:
    for patient in plan.patients:
        views = Counter(m.view for m in patient.micrographs if not m.deposits)
        assert abs(views["capillary"] - views["mesangium"]) <= 1


def test_igan_deposits_are_seen_in_the_mesangium(plan: PhantomPlan) -> None:
    views = {
        m.view for p in plan.patients if p.appearance["TEM"] == "IgAN" for m in p.micrographs if m.deposits
    }
    assert views == {"mesangium"}


def test_accidents(plan: PhantomPlan) -> None:
    missing = [p.missing for p in plan.patients if p.missing]
    assert sorted(missing) == [("IM",), ("OM",), ("TEM",)]
    assert sorted(plan.damaged.values()) == ["empty", "text", "truncated"]
    assert Counter(path.split("/")[0] for path in plan.damaged) == {"TEM": 2, "IM": 1}
    hit = {path.split("/")[1][:4] for path in plan.damaged}
    assert len(hit) == 3
    for patient in plan.patients:
        assert not (patient.missing and patient.patient in hit)
        assert all(m.path not in plan.damaged for m in patient.micrographs if m.deposits)


def test_a_lost_modality_counts_as_nondiagnostic(plan: PhantomPlan) -> None:
    for patient, (label, seen) in zip(plan.patients, plan.seen(), strict=True):
        assert label == patient.label
        for modality in patient.missing:
            assert seen[modality] == NONDIAGNOSTIC
        if patient.im_path in plan.damaged:
            assert seen["IM"] == NONDIAGNOSTIC


def test_same_settings_same_plan() -> None:
    settings = Phantom(patients=12)
    assert plan_phantom(settings) == plan_phantom(settings)
    assert plan_phantom(settings).patients != plan_phantom(Phantom(patients=12, seed=8)).patients


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"glomeruli": (10, 4)},
            "phantom.glomeruli: [10, 4] is the wrong way round; write 'glomeruli: [4, 10]'",
        ),
        (
            {"tem_images": (5, 3)},
            "phantom.tem_images: [5, 3] is the wrong way round; write 'tem_images: [3, 5]'",
        ),
        (
            {"patients": 6, "missing_modality": 7},
            "phantom.missing_modality: 7 patients cannot lack a modality where phantom.patients is 6; "
            "write 6 or less",
        ),
        (
            {"patients": 6, "bare_fields": 7},
            "phantom.bare_fields: 7 fields cannot be without outlines where phantom.patients is 6; "
            "write 6 or less",
        ),
        (
            {"patients": 6, "missing_modality": 2, "damaged_files": 5},
            "phantom.damaged_files: 5 files cannot be damaged, only 4 (one per patient who lacks no "
            "modality); lower it or raise phantom.patients",
        ),
    ],
)
def test_settings_that_cannot_be_met(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_phantom(Phantom(**settings))
    assert str(caught.value) == message


@pytest.mark.parametrize("lesion", LESIONS)
def test_captions_tell_the_lesion_and_not_the_site(lesion: str) -> None:
    rng = np.random.default_rng(0)
    captions = {caption_for(lesion, rng) for _ in range(60)}
    assert len(captions) > 8
    for caption in captions:
        assert caption[0].isupper()
        assert caption.endswith(".")
        assert not any(site.name in caption for site in SITES)
        assert not any(label in caption for label in CLASSES)


def test_bare_fields_change_nothing_but_where_their_outlines_lie() -> None:
    all_outlined = plan_phantom(Phantom(patients=9, seed=5))
    some_bare = plan_phantom(Phantom(patients=9, seed=5, bare_fields=4))
    assert sum(not patient.outlined for patient in some_bare.patients) == 4
    for known, other in zip(all_outlined.patients, some_bare.patients, strict=True):
        assert known == replace(other, outlined=True)
        if other.om_path and not other.outlined:
            assert other.annotation_path == f"truth/OM/{other.patient}.geojson"
