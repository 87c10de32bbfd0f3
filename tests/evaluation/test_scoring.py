"""Matching of labels by class name. The scores themselves are tested through the metrics and the predictor."""

import pytest

from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit.config import EvalConfig
from xvit.data.annotations.samples import Sample
from xvit.evaluation import match_labels, score_videos
from xvit.inference import Predictor
from xvit.utils.errors import XViTError


def test_labels_are_matched_by_class_name():
    samples = [Sample(path="a.mp4", label=0, id="a"), Sample(path="b.mp4", label=1, id="b")]
    matched = match_labels(samples, ["red", "blue"], list(CLASSES))
    assert [CLASSES[sample.label] for sample in matched] == ["red", "blue"]
    with pytest.raises(XViTError, match=r'class "rad" is not one of the 3 .*\. Did you mean "red"\?'):
        match_labels(samples, ["rad", "blue"], list(CLASSES))
    message = "the model predicts the tasks verb, but the videos are labelled for a single unnamed task"
    with pytest.raises(XViTError, match=message):
        match_labels(samples, ["red", "blue"], {"verb": ["red"]})


def test_samples_without_labels_need_no_matching():
    samples = [Sample(path="a.mp4", label=None, id="a")]
    assert match_labels(samples, ["red"], {"verb": ["red"]}) == samples


def test_no_videos_are_an_error():
    predictor = Predictor(with_metadata(make_model(), list(CLASSES)))
    with pytest.raises(XViTError, match="at least one video"):
        score_videos(predictor, [], eval_config=EvalConfig())
