"""Make the pictures of the page of `xvit serve` in docs/images: start the service, use the page, take screenshots.

    python scripts/make_page_pictures.py

replaces docs/images/serve-*.png. It needs Chromium and `pip install -e '.[dev]'`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from xvit.data.synthetic.motion import render_clip

TARGET = Path(__file__).parents[1] / "docs" / "images"
MAX_BYTES = 300_000
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 780}
CAMERA_FPS = 30  # at which Chromium plays a file of JPEG pictures


@contextmanager
def serve() -> Iterator[str]:
    """Run the service with the bundled model; yields its address."""
    command = [sys.executable, "-m", "xvit", "serve", "motion", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()
            process.communicate()


def write_camera_file(path: Path) -> None:
    """Write what the camera shows: shapes that move to the left, then up."""
    rng = np.random.default_rng(4)
    frames = np.concatenate([render_clip(label, rng, fps=CAMERA_FPS) for label in ("moving_left", "moving_up")])
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=CAMERA_FPS)
        stream.height = stream.width = 480
        stream.pix_fmt = "yuvj420p"
        for frame in frames.repeat(10, axis=1).repeat(10, axis=2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def open_page(browser: Browser, address: str, viewport: dict[str, int], scheme: str) -> Page:
    """The page with the samples loaded."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, permissions=["camera"])
    page = context.new_page()
    page.goto(address)
    wait_until(page, "document.querySelectorAll('.sample video').length >= 5")
    wait_until(page, "[...document.querySelectorAll('.sample video')].every(video => video.readyState >= 2)")
    return page


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression is true; Playwright's own function for it is against the page's security policy."""
    while not page.evaluate(expression):
        page.wait_for_timeout(50)


def show_prediction(page: Page, sample: str) -> None:
    """Classify a sample, and wait until its video is in the middle."""
    page.locator(".sample", has_text=sample).click()
    page.mouse.move(0, 0)
    page.wait_for_selector("#filmstrip canvas")
    wait_until(page, "document.getElementById('player').currentTime > 0.7")
    page.evaluate("document.activeElement.blur()")


def show_timeline(page: Page) -> None:
    """Find the moments of the long sample."""
    show_prediction(page, "one after the other")
    page.wait_for_selector("#segments table")
    wait_until(page, "document.getElementById('player').currentTime > 1.5")


def show_explanation(page: Page) -> None:
    """Explain the prediction that is shown."""
    page.locator("#why").click()
    page.mouse.move(0, 0)
    page.wait_for_selector(".relevance")
    page.evaluate("document.activeElement.blur()")


def show_camera(page: Page) -> None:
    """Let the camera run until the ribbon is filled."""
    page.locator("#tab-camera").click()
    page.locator("#camera-start").click()
    page.wait_for_timeout(12_000)
    page.wait_for_selector("#live-label:not(.none)")
    page.evaluate("document.activeElement.blur()")


def save(name: str, picture: Image.Image) -> None:
    """Write docs/images/serve-NAME.png, and check its size."""
    path = TARGET / f"serve-{name}.png"
    picture.convert("RGB").save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    assert size <= MAX_BYTES, f"{path} is larger than {MAX_BYTES / 1000:.0f} kB"


def screenshot(page: Page, *, full: bool = True) -> Image.Image:
    """The whole page, or what the window shows of it."""
    return Image.open(BytesIO(page.screenshot(full_page=full, animations="disabled")))


def take_desktop(browser: Browser, address: str) -> None:
    """The pictures at the width of a desktop."""
    page = open_page(browser, address, DESKTOP, "light")
    show_prediction(page, "two shapes meeting")
    save("prediction", screenshot(page))
    show_timeline(page)
    save("timeline", screenshot(page))
    page.context.close()
    page = open_page(browser, address, DESKTOP, "dark")
    show_prediction(page, "moving left")
    show_explanation(page)
    save("explanation", screenshot(page))
    page.context.close()
    page = open_page(browser, address, DESKTOP, "light")
    show_camera(page)
    save("camera", screenshot(page))
    page.context.close()


def take_phone(browser: Browser, address: str) -> None:
    """Four screens of a phone, side by side."""
    screens = []
    page = open_page(browser, address, PHONE, "light")
    screens.append(screenshot(page, full=False))
    show_timeline(page)
    page.locator("#timeline-card").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('timeline-card').scrollIntoView(); scrollBy(0, -16)")
    screens.append(screenshot(page, full=False))
    show_prediction(page, "moving left")
    show_explanation(page)
    page.evaluate("document.getElementById('frames-card').scrollIntoView(); scrollBy(0, -16)")
    screens.append(screenshot(page, full=False))
    show_camera(page)
    page.evaluate("scrollTo(0, 0)")
    screens.append(screenshot(page, full=False))
    page.context.close()
    gap = 24
    sheet = Image.new("RGB", (len(screens) * (PHONE["width"] + gap) - gap, PHONE["height"]), "white")
    for index, screen in enumerate(screens):
        sheet.paste(screen, (index * (PHONE["width"] + gap), 0))
    save("phone", sheet)


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder, serve() as address, sync_playwright() as playwright:
        camera = Path(folder) / "camera.mjpeg"
        write_camera_file(camera)
        arguments = [
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        take_desktop(browser, address)
        take_phone(browser, address)
        browser.close()


if __name__ == "__main__":
    main()
