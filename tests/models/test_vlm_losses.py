import numpy as np
import pytest
import torch
from torch.nn import functional

from glomflow.errors import GlomflowError
from glomflow.models.vlm.losses import (
    balanced_batches,
    contrastive_loss,
    contrastive_targets,
    shuffled_batches,
)

LABELS = torch.tensor([0, 1, 0, 2])


def _units(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=1)


def test_arange_is_the_cross_entropy_against_places() -> None:
    images, texts = _units(4, 0), _units(4, 1)
    logits = 7.0 * images @ texts.T
    places = torch.arange(4)
    expected = (functional.cross_entropy(logits, places) + functional.cross_entropy(logits.T, places)) / 2
    assert contrastive_loss(images, texts, LABELS, 7.0, "arange").item() == pytest.approx(expected.item())


def test_targets_spread_over_the_class() -> None:
    targets = contrastive_targets(LABELS, "supervised_contrastive")
    assert targets.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]]
    assert torch.equal(contrastive_targets(LABELS, "arange"), torch.eye(4))


def test_losses_agree_where_no_class_occurs_twice() -> None:
    images, texts, labels = _units(4, 0), _units(4, 1), torch.arange(4)
    one = contrastive_loss(images, texts, labels, 5.0, "arange")
    two = contrastive_loss(images, texts, labels, 5.0, "supervised_contrastive")
    assert one.item() == pytest.approx(two.item(), abs=1e-12)


def test_losses_are_one_where_a_class_has_one_text() -> None:
    images, texts = _units(4, 0).requires_grad_(), _units(3, 1)[LABELS].requires_grad_()
    found = {}
    for kind in ("arange", "supervised_contrastive"):
        value = contrastive_loss(images, texts, LABELS, 5.0, kind)
        found[kind] = (value, torch.autograd.grad(value, images)[0])
    assert found["arange"][0].item() == pytest.approx(found["supervised_contrastive"][0].item())
    assert torch.allclose(found["arange"][1], found["supervised_contrastive"][1])


def test_only_the_published_loss_pushes_a_class_apart_where_its_texts_differ() -> None:
    images, texts = _units(4, 0), _units(4, 1)

    def pull(kind: str) -> float:
        """How far descent moves image 0 towards the text of image 2, of its own class."""
        moved = images.clone().requires_grad_()
        contrastive_loss(moved, texts, LABELS, 5.0, kind).backward()
        return float(-moved.grad[0] @ functional.normalize(texts[2] - texts[0], dim=0))

    assert pull("arange") < 0 < pull("supervised_contrastive")


def test_one_image_says_why_not() -> None:
    with pytest.raises(GlomflowError, match="batch_size to 2 or more"):
        contrastive_loss(_units(1, 0), _units(1, 1), LABELS[:1], 1.0, "arange")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 16])
def test_balanced_batches(batch_size: int) -> None:
    labels = np.repeat([0, 1, 2, 4, 7], [9, 3, 9, 1, 4])
    batches = balanced_batches(labels, batch_size, seed=1, epoch=0)
    for batch in batches:
        counts = np.bincount(labels[batch], minlength=8)[[0, 1, 2, 4, 7]]
        assert np.ptp(counts) <= 1
    assert set(np.concatenate(batches)) == set(range(len(labels)))
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == 45
    assert batch_size == 1 or min(sizes) > 1


def test_balanced_batches_of_equal_classes_take_each_row_once() -> None:
    labels = np.tile(np.arange(5), 4)
    batches = balanced_batches(labels, 5, seed=3, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(20))
    assert all(sorted(labels[batch]) == [0, 1, 2, 3, 4] for batch in batches)


@pytest.mark.parametrize(
    "sampler",
    [lambda **k: balanced_batches(np.tile([0, 1], 8), 4, **k), lambda **k: shuffled_batches(16, 4, **k)],
)
def test_batches_depend_on_seed_and_epoch_only(sampler) -> None:
    def order(**keys: int) -> list[int]:
        return np.concatenate(sampler(**keys)).tolist()

    assert order(seed=0, epoch=5) == order(seed=0, epoch=5)
    assert order(seed=0, epoch=5) != order(seed=0, epoch=6)
    assert order(seed=0, epoch=5) != order(seed=1, epoch=5)


def test_a_single_row_left_over_joins_the_last_batch() -> None:
    sizes = [len(batch) for batch in shuffled_batches(21, 5, seed=0, epoch=0)]
    assert sizes == [5, 5, 5, 6]
    assert [len(batch) for batch in shuffled_batches(3, 1, seed=0, epoch=0)] == [1, 1, 1]
    assert [len(batch) for batch in shuffled_batches(1, 5, seed=0, epoch=0)] == [1]


def test_unusable_batches() -> None:
    with pytest.raises(GlomflowError, match="no training row"):
        balanced_batches([], 5, seed=0, epoch=0)
    with pytest.raises(GlomflowError, match="batch_size is 0"):
        shuffled_batches(3, 0, seed=0, epoch=0)
