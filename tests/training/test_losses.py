"""The training loss against its definition."""

import math

import pytest
import torch

from xvit.training.losses import classification_loss


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
