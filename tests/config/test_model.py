"""Validation of the model's settings."""

import pytest

from xvit.config import ModelConfig, model_config
from xvit.utils.errors import XViTError


def test_multi_label_models_have_one_task():
    with pytest.raises(XViTError, match="multi_label=True with several tasks"):
        ModelConfig(multi_label=True, num_classes={"verb": 2})


def test_invalid_value():
    with pytest.raises(XViTError, match="temporal_padding='mirror'"):
        model_config(temporal_padding="mirror")
