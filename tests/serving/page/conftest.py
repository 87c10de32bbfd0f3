"""A service with three models, and a browser that visits its page."""

from collections.abc import Iterator

import pytest

from helpers.browser import FAILED, Visitor, find_chromium, serve_process


@pytest.fixture(scope="module")
def address(checkpoint) -> Iterator[str]:
    """A service with the bundled model, one that cannot follow a camera, and the bundled one again."""
    find_chromium()  # before a server is started in vain
    with serve_process("motion", f"second={checkpoint}", "third=motion") as address:
        yield address


@pytest.fixture
def visitor(browser, address) -> Iterator[Visitor]:
    visitor = Visitor(browser, address)
    yield visitor
    visitor.close()


@pytest.fixture
def tolerant_visitor(browser, address) -> Iterator[Visitor]:
    """For tests in which the server answers with an error status."""
    visitor = Visitor(browser, address)
    yield visitor
    visitor.close(allowed=[FAILED])


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    return expect
