"""Which addresses are allowed."""

import os

import pytest

from xvit.data.shards import check_video
from xvit.utils.addresses import (
    allow_remote,
    allowed_only_inside,
    check_address,
    is_address,
    is_allowed,
    is_named,
    name_place,
    split_allowed,
)
from xvit.utils.errors import XViTError


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.setenv("XVIT_ALLOW_REMOTE", "")


def test_nothing_is_allowed_by_default():
    for address in ("s3://bucket/a.mp4", "https://example.org/a.mp4", "hf://datasets/a/b/c.mp4"):
        with pytest.raises(XViTError, match=rf"--allow-remote {address.partition(':')[0]} \(for data sets"):
            check_address(address)


@pytest.mark.parametrize(
    ("allowed", "address", "expected"),
    [
        ("s3", "s3://bucket/a.mp4", True),
        ("s3", "S3://bucket/a.mp4", True),
        ("s3", "https://bucket/a.mp4", False),
        ("https", "http://example.org/a.mp4", False),
        ("s3://bucket", "s3://bucket/a.mp4", True),
        ("s3://bucket", "s3://bucket2/a.mp4", False),
        ("s3://bucket", "s3://other/s3://bucket/a.mp4", False),
        ("https://example.org", "https://EXAMPLE.org:443/a.mp4", True),
        ("https://example.org", "https://example.org:8443/a.mp4", False),
        ("https://example.org", "https://example.org@evil.org/a.mp4", False),
        ("https://example.org", "https://example.org\\@evil.org/a.mp4", False),
        ("https://example.org", "https://evil.org#@example.org/a.mp4", False),
        ("https://example.org", "https://user:word@example.org/a.mp4", True),
        ("https://example.org", "https://example.org.evil.org/a.mp4", False),
        ("https", "https://[1/a.mp4", False),
        ("https", "https://example.org:port/a.mp4", False),
        ("https", "https:///a.mp4", False),
        ("https", "https://example.org/a\nb.mp4", False),
        ("s3,https", "https://example.org/a.mp4?x=1", True),
    ],
)
def test_schemes_and_places(allowed, address, expected):
    allow_remote(allowed)
    assert is_allowed(address) == expected
    assert is_named(address) == (expected and "://" in allowed)


def test_what_cannot_be_allowed():
    with pytest.raises(XViTError, match=r"allow_remote='htps': expected s3, gs, .*Did you mean \"https\"\?"):
        split_allowed("htps")
    for wrong in ("file", "zip", "s3://bucket/folder/x", "https://user:word@host", "*"):
        with pytest.raises(XViTError, match=r"^allow_remote="):
            allow_remote(wrong)
    assert split_allowed(" s3, https://host:8000 ,") == ("s3", "https://host:8000")


def test_it_ends_with_the_command():
    allow_remote("hf")
    with allowed_only_inside():
        allow_remote("s3", "https")
        assert is_allowed("s3://a/b")
        assert is_allowed("hf://a/b")
    assert os.environ["XVIT_ALLOW_REMOTE"] == "hf"


def test_paths_are_no_addresses(tmp_path):
    assert not any(map(is_address, ("a.mp4", "/a/b", "C:\\a.mp4", "a:b/c", "://", 3)))
    check_video(tmp_path)
    for path, message in {
        tmp_path / "none": "no such file or folder",
        "ftp://host/a.mp4": "ftp:// is not supported",
        "file:///etc/passwd": "file:// is not supported",
        "zip://a::https://host": "zip:// is not supported",
    }.items():
        with pytest.raises(XViTError, match=message):
            check_video(path)
    assert name_place("https://user:word@host:8000/a?token=1") == "https://host:8000"
