"""Messages of other libraries in one line."""

import pickle
from pathlib import Path

import pytest
import torch

from xvit.utils.errors import one_line


@pytest.mark.parametrize("value", [Path, {"a": print}, torch.nn.Linear(1, 1)], ids=["class", "function", "module"])
def test_no_message_advises_to_load_files_without_protection(value, tmp_path):
    torch.save(value, tmp_path / "file")
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "file", weights_only=True)
    assert "weights_only" in str(caught.value)
    text = one_line(caught.value)
    assert "weights_only" not in text
    assert "safe_globals" not in text
    assert text.startswith("Unsupported global: ")
