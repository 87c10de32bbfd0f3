"""The messages of errors, and those of other libraries in one line."""

import pickle
import sys
from pathlib import Path

import pytest
import torch

from xvit.utils.errors import MAX_MESSAGE, VideoError, XViTError, check_installed, import_optional, one_line


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


LONG = "x" * 10**6 + " end"


@pytest.mark.parametrize("error", [XViTError(f"start {LONG}"), VideoError("start", LONG)])
def test_a_message_that_quotes_a_huge_value_loses_its_middle(error):
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert len(str(same)) <= MAX_MESSAGE
        assert str(same).startswith("start")
        assert str(same).endswith("x end")


def test_a_message_of_ordinary_length_stays(tmp_path):
    text = "labels.txt line 3: " + "x" * (MAX_MESSAGE - 100)
    assert str(XViTError(text)) == text
    assert str(VideoError("a.mp4", text)) == f"a.mp4: {text}"


def test_a_missing_package_is_that_of_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(XViTError, match=r"^fastapi is not installed: pip install 'xvit\[serve\]'$"):
        check_installed(["json", "fastapi"], extra="serve")
    check_installed(["json", "pathlib"], extra="serve")


def test_where_torch_is_missing_an_extra_would_install_it_so_packages_are_named_alone(monkeypatch):
    for module in ("torch", "fastapi", "PIL", "sklearn", "sklearn.neighbors"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(XViTError, match=r"^fastapi, pillow are not installed: pip install fastapi pillow$"):
        check_installed(["fastapi", "json", "PIL"], extra="serve")
    with pytest.raises(XViTError, match=r"^scikit-learn is not installed: pip install scikit-learn$"):
        import_optional("sklearn.neighbors", extra="features")
