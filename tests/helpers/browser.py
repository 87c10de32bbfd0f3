"""A browser for the page of `xvit serve`: Debian's Chromium through Playwright, with a made camera."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

from xvit.data.synthetic.motion import render_clip

FAILED = "Failed to load resource"  # the browser's own words for an answer with an error status
SKIP = "XVIT_SKIP_BROWSER_TESTS"
TIMEOUT = 120_000  # ms until a condition that never holds fails a test; the machine may be busy
POLL = 50  # ms
CAMERA_FPS = 30  # at which Chromium plays a file of JPEG pictures
CAMERA_SIDE = 480


def find_chromium() -> str:
    """The path of the browser. Fails the test without one, or skips it if the environment says so."""
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"{SKIP}=1")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    for module in ("playwright", "axe_playwright_python"):
        if find_spec(module) is None:
            pytest.fail(f"the tests of the page need {module}: pip install -e '.[dev]', or set {SKIP}=1")
    if path is None:
        pytest.fail(f"the tests of the page need Chromium: apt-get install chromium, or set {SKIP}=1")
    return path


@contextmanager
def serve_process(*arguments: str) -> Iterator[str]:
    """Run `xvit serve` on a free port; yields its address."""
    command = [sys.executable, "-m", "xvit", "serve", *arguments, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, f"{' '.join(command)} ended before it was ready"
            yield json.loads(line)["address"]
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def open_chromium(camera: Path) -> Iterator[Any]:
    """A headless browser whose camera shows a file."""
    path = find_chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT)
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments, timeout=TIMEOUT)
        yield browser
        browser.close()


def write_camera_file(path: Path, label: str = "moving_left") -> None:
    """Write two seconds of a class as what Chromium takes for a camera."""
    frames = render_clip(label, np.random.default_rng(4), fps=CAMERA_FPS)
    scale = CAMERA_SIDE // frames.shape[1]
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=CAMERA_FPS)
        stream.height = stream.width = scale * frames.shape[1]
        stream.pix_fmt = "yuvj420p"
        for frame in frames.repeat(scale, axis=1).repeat(scale, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


class Visitor:
    """Somebody who looks at the page; records what the browser complains of and whom it asks.

    Args:
        browser: from `open_chromium`.
        address: of the service.
        context: options of the browser's context, such as the size of the window.
    """

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address, self.complaints, self.hosts = address, list[str](), set[str]()
        self.context = browser.new_context(permissions=["camera"], **context)
        self.context.set_default_timeout(TIMEOUT)
        self.page = self.context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self) -> Any:
        """Open the page and wait until it is filled."""
        self.page.goto(self.address)
        self.page.wait_for_selector(".sample")
        return self.page

    def close(self, allowed: Sequence[str] = ()) -> None:
        """Close the window; fails if there were errors but those allowed, or requests to others.

        The browser reports answers with an error status itself, whatever the page does about them.
        """
        self.context.close()
        errors = [text for text in self.complaints if not any(part in text for part in allowed)]
        assert not errors, errors
        assert self.hosts - {""} <= {urlsplit(self.address).netloc}  # "" for data and blob addresses


def wait_until(page: Any, expression: str) -> None:
    """Wait until an expression is true; Playwright's own function for it is against the page's security policy."""
    for _ in range(TIMEOUT // POLL):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(POLL)
    raise AssertionError(f"{expression}: never true")


def tab_to(page: Any, selector: str, most: int = 80) -> None:
    """Press the tabulator until the focus is on an element."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} cannot be reached with the keyboard")


def choose_file(page: Any, path: Path) -> None:
    """Choose a file with the button."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files(path)


def open_sample(page: Any, name: str) -> None:
    """Click the sample whose name contains a text."""
    page.locator(".sample", has_text=re.compile(name, re.IGNORECASE)).click()


def change_answer(page: Any, path: str, change: Any) -> None:
    """Let the page get the service's answer to a path, as changed by a function."""

    def handle(route: Any) -> None:
        answer = route.fetch()
        value = answer.json()
        change(value)
        route.fulfill(response=answer, json=value)

    page.route(f"**{path}*", handle)


def drop_file(page: Any, path: Path, kind: str = "video/mp4") -> None:
    """Drop a file on the page, as from a file manager."""
    script = """([data, name, type]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, { type }));
        return transfer;
    }"""
    data = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(script, [data, path.name, kind])
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds on the page that is serious or critical."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    result = page.evaluate(f"{script}\naxe.run()")
    found = [item for item in result["violations"] if item["impact"] in ("serious", "critical")]
    return [f"{item['id']}: {[node['target'] for node in item['nodes']]}" for item in found]
