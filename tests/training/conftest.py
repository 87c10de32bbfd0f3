"""Fixtures for the tests of training."""

from pathlib import Path

import pytest

from helpers.color_videos import write_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A data set of three colours, 4 training and 2 validation videos per class. Read-only."""
    return write_videos(tmp_path_factory.mktemp("colors"))
