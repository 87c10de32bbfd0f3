"""What `import xvit` offers, and what it does not load."""

import subprocess
import sys

import pytest

import xvit
from helpers.warm_processes import WarmProcess


def test_dir_shows_the_public_api_and_nothing_else():
    assert sorted(dir(xvit)) == sorted(xvit.__all__)
    for name in xvit.__all__:
        assert getattr(xvit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        xvit.Missing  # noqa: B018


def test_help_names_every_public_object():
    code, text, err = WarmProcess("-c", "import xvit; help(xvit)").wait()
    assert (code, err) == (0, "")
    for name in set(xvit.__all__) - {"__version__"}:
        assert name in text
    assert "import_module" not in text


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, xvit, xvit.cli.main; print([m for m in ('torch', 'timm', 'av', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
