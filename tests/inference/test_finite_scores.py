"""A model whose logits are no numbers: an error of every way to use it, never a score."""

import pytest
import torch

from helpers.color_videos import CLASSES, make_model, with_metadata, write_video
from xvit import Predictor
from xvit.utils.errors import XViTError

MESSAGE = "the model's logits are NaN or infinite"


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_of_logits_that_are_no_numbers(value, multi_label):
    model = make_model(multi_label=multi_label)
    assert model.probabilities(torch.tensor([[1.0, -80.0, 3e38]])).isfinite().all()
    with pytest.raises(XViTError, match=MESSAGE):
        model.probabilities(torch.tensor([[0.0, 1.0, 2.0], [0.0, value, 1.0]]))


def test_finite_weights_that_overflow_are_an_error_of_the_command(tmp_path, cli_error):
    model = with_metadata(make_model(), list(CLASSES))
    with torch.no_grad():
        model.classifier.fc["label"].weight.fill_(3e38)
    model.save_pretrained(tmp_path / "best")
    video = write_video(tmp_path / "a.mp4", color=0, seed=0)
    with pytest.raises(XViTError, match=MESSAGE):
        Predictor(model)(video)
    assert MESSAGE in cli_error("predict", video, "--checkpoint", tmp_path / "best", "--num-workers", 0)
