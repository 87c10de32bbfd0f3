"""Names of served models."""

import pytest

from xvit.serving.models import load_models
from xvit.serving.names import split_name
from xvit.serving.settings import Limits
from xvit.utils.errors import XViTError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("motion", ("motion", "motion")),
        ("run/best", ("run", "run/best")),
        ("/data/run/last/", ("run", "/data/run/last/")),
        ("best", ("best", "best")),
        ("hf://owner/name", ("name", "hf://owner/name")),
        ("models/my model", ("my-model", "models/my model")),
        ("sports=run/best", ("sports", "run/best")),
        ("a=b=c", ("a", "b=c")),
        ("runs/a=1", ("a-1", "runs/a=1")),
    ],
)
def test_names(text, expected):
    assert split_name(text) == expected


@pytest.mark.parametrize("text", ["=run", "a b=run", "é=run", f"{'a' * 65}=run"])
def test_names_that_are_none(text):
    with pytest.raises(XViTError, match="in the name of a model"):
        split_name(text)


def test_two_models_of_one_name(checkpoint):
    with pytest.raises(XViTError, match=r'two models are named "motion": write NAME=motion'):
        load_models(["motion", "motion"], Limits())


@pytest.mark.parametrize(("name", "value"), [("upload_bytes", 0), ("queue", 0), ("pixels", 2**40), ("batch_wait", -1)])
def test_limits_out_of_range(name, value):
    with pytest.raises(XViTError, match=f"{name}="):
        Limits(**{name: value})
