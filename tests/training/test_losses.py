"""The training loss, mixup and cutmix against their definitions."""

import math

import pytest
import torch

from xvit.config import AugmentConfig
from xvit.training.losses import classification_loss, mix_batch
from xvit.utils.errors import XViTError

B, T, S = 4, 2, 8
LABELS = torch.tensor([2, 0, 1, 1])
TASKS = {"verb": LABELS, "noun": torch.tensor([0, 1, 2, 3])}


def test_loss_is_smoothed_and_summed_over_tasks():
    logits = {"verb": torch.randn(4, 2), "noun": torch.randn(4, 3)}
    labels = {"verb": torch.tensor([0, 1, 1, 0]), "noun": torch.tensor([2, 0, 1, 1])}
    expected = 0.0
    for task, values in logits.items():
        classes = values.shape[1]
        for row, label in zip(values, labels[task], strict=True):
            for c in range(classes):
                target = 0.3 / classes + 0.7 * (c == label)
                expected -= float(target * row.log_softmax(0)[c]) / 4
    assert classification_loss(logits, labels, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_loss_weights_of_tasks():
    logits = {"verb": torch.randn(4, 3), "noun": torch.randn(4, 5), "tool": torch.randn(4, 2)}
    labels = {task: torch.randint(part.shape[1], (4,)) for task, part in logits.items()}
    alone = {task: classification_loss(logits[task], labels[task]) for task in logits}
    weighted = classification_loss(logits, labels, 0.0, {"noun": 0.25, "tool": 0.0})
    torch.testing.assert_close(weighted, alone["verb"] + 0.25 * alone["noun"])


def test_loss_of_multi_label_targets():
    logits = torch.randn(3, 3)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    expected = 0.0
    for row, labels in zip(logits.double().tolist(), targets.tolist(), strict=True):
        for value, label in zip(row, labels, strict=True):
            score, target = 1 / (1 + math.exp(-value)), 0.8 * label + 0.1
            expected -= (target * math.log(score) + (1 - target) * math.log(1 - score)) / 9
    assert classification_loss(logits, targets, 0.2, multi_label=True).item() == pytest.approx(expected, rel=1e-5)


def clips() -> torch.Tensor:
    """(B, T, C, H, W): clip b has the value b + 1, so that a mixed value shows the weights of its two clips."""
    return torch.arange(1.0, B + 1).view(B, 1, 1, 1, 1).repeat(1, T, 3, S, S)


def expected_labels(labels: torch.Tensor, classes: int, share: float) -> torch.Tensor:
    """Probability `share` for each clip's own class, the rest for the class of the previous clip."""
    soft = torch.zeros(B, classes)
    for clip in range(B):
        soft[clip, labels[clip]] += share
        soft[clip, labels[clip - 1]] += 1 - share
    return soft


def test_without_mixing_nothing_changes_and_no_random_number_is_drawn():
    torch.manual_seed(0)
    before, pixels = torch.get_rng_state(), clips()
    mixed, labels = mix_batch(pixels, LABELS, 3, mixup=0, cutmix=0)
    assert mixed is pixels
    assert labels is LABELS
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_equals_its_definition():
    torch.manual_seed(0)
    drawn = set()
    for _ in range(10):
        pixels = clips()
        mixed, labels = mix_batch(pixels, LABELS, 3, mixup=0.4, cutmix=0)
        assert torch.equal(pixels, clips()), "the input must not change"
        share = float(mixed[1].mean()) - 1  # clip 1 is now 2 share + 1 (1 - share)
        assert 0 <= share <= 1
        for clip in range(B):
            value = share * (clip + 1) + (1 - share) * (((clip - 1) % B) + 1)
            torch.testing.assert_close(mixed[clip], torch.full((T, 3, S, S), value))
        torch.testing.assert_close(labels, expected_labels(LABELS, 3, share), atol=1e-5, rtol=0)
        drawn.add(round(share, 4))
    assert len(drawn) > 8


def test_cutmix_equals_its_definition():
    torch.manual_seed(0)
    shares = []
    for _ in range(20):
        mixed, labels = mix_batch(clips(), LABELS, 3, mixup=0, cutmix=1.0)
        own = mixed == clips()
        assert torch.equal(own, own[:1, :1, :1].expand_as(own)), "expected the same box in all frames and colours"
        others = clips().roll(1, 0)
        assert (mixed[~own] == others[~own]).all()
        rows, columns = (~own[0, 0, 0]).any(dim=1), (~own[0, 0, 0]).any(dim=0)
        assert torch.equal(~own[0, 0, 0], rows[:, None] & columns)
        share = float(own.float().mean())
        torch.testing.assert_close(labels, expected_labels(LABELS, 3, share))
        shares.append(share)
    assert len(set(shares)) > 8


def test_all_tasks_share_one_draw_from_the_global_generator():
    classes = {"verb": 3, "noun": 5}
    for settings in ({"mixup": 0.4, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        torch.manual_seed(3)
        mixed, labels = mix_batch(clips(), TASKS, classes, **settings)
        share = float(labels["noun"][0, 0])  # all clips have different nouns
        for task, number in classes.items():
            torch.testing.assert_close(labels[task], expected_labels(TASKS[task], number, share))
        torch.manual_seed(3)
        again, one = mix_batch(clips(), LABELS, 3, **settings)
        assert torch.equal(again, mixed)
        assert torch.equal(one, labels["verb"])


def test_with_both_set_one_is_drawn():
    torch.manual_seed(0)
    cut = 0
    for _ in range(200):
        mixed, _ = mix_batch(clips(), LABELS, 3, mixup=1.0, cutmix=1.0)
        cut += bool((mixed == mixed.round()).all())
    assert 70 < cut < 130


@pytest.mark.parametrize("settings", [{"mixup": 0.4, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}])
def test_a_batch_of_one_is_not_changed(settings):
    pixels = torch.rand(1, T, 3, S, S)
    mixed, labels = mix_batch(pixels, torch.tensor([1]), 3, **settings)
    torch.testing.assert_close(mixed, pixels)
    torch.testing.assert_close(labels, torch.tensor([[0.0, 1.0, 0.0]]))


def test_loss_of_mixed_labels_is_the_weighted_loss():
    torch.manual_seed(1)
    logits = {"verb": torch.randn(B, 3), "noun": torch.randn(B, 5)}
    _, soft = mix_batch(clips(), TASKS, {"verb": 3, "noun": 5}, mixup=0.4, cutmix=0)
    share = float(soft["noun"][0, 0])
    for smoothing in (0.0, 0.3):
        own = classification_loss(logits, TASKS, smoothing)
        other = classification_loss(logits, {task: labels.roll(1) for task, labels in TASKS.items()}, smoothing)
        mixed = classification_loss(logits, soft, smoothing)
        torch.testing.assert_close(mixed, share * own + (1 - share) * other)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_negative_alpha_is_refused(name):
    with pytest.raises(XViTError, match=f"{name}=-1"):
        AugmentConfig(**{name: -1})


def test_mixup_of_multi_label_targets():
    torch.manual_seed(0)
    pixels, targets = torch.rand(3, 4, 3, 8, 8), torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    mixed, labels = mix_batch(pixels, targets, 3, mixup=1.0, cutmix=0.0)
    share = ((mixed - pixels.roll(1, 0)) / (pixels - pixels.roll(1, 0)))[0, 0, 0, 0, 0]
    torch.testing.assert_close(labels, share * targets + (1 - share) * targets.roll(1, 0), atol=1e-4, rtol=1e-4)
