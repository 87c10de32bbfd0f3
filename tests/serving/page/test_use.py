"""Using the page of the service: camera, token, cancelling, keyboard, readability, in a browser."""

import json
import re
from functools import partial
from typing import Any

import pytest

from helpers.browser import (
    FAILED,
    TIMEOUT,
    Visitor,
    open_sample,
    serious_findings,
    serve_process,
    tab_to,
    wait_until,
)

TOKEN = "a-token-of-the-tests"


def test_camera_shows_live_bars_rate_lag_and_the_threshold(visitor, expect):
    page = visitor.open()
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#live-bars li")).to_have_count(13)
    expect(page.locator("#camera-rate")).to_have_text(re.compile(r"\d+\.\d"))
    expect(page.locator("#camera-lag")).to_have_text(re.compile(r"\d+ ms"))
    page.locator("#threshold").fill("0")
    wait_until(page, "document.querySelector('#live-bars .best') !== null")  # something moves, and has a name
    page.locator("#threshold").fill("100")
    expect(page.locator("#threshold-value")).to_have_text("100 %")
    expect(page.locator("#live-label")).to_have_text("None of these")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#live-label")).to_have_text("Stopped")
    assert page.locator("#camera").evaluate("video => video.srcObject") is None
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#camera-rate")).to_have_text(re.compile(r"\d+\.\d"))


def start_camera(page: Any) -> None:
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()


def test_camera_goes_on_with_another_model(visitor, expect):
    page = visitor.open()
    start_camera(page)
    expect(page.locator("#live-bars li")).to_have_count(13)
    with page.expect_websocket(lambda socket: "model=third" in socket.url) as socket:
        page.get_by_role("combobox", name="Model").select_option("third")
    socket.value.wait_for_event("framereceived", lambda text: "scores" in text, timeout=TIMEOUT)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()


def test_camera_of_a_model_with_several_tasks(visitor, expect):
    def answer(socket: Any, message: Any) -> None:
        if isinstance(message, str):
            names = {"verb": ["take", "put"], "noun": ["cup", "plate"]}
            socket.send(json.dumps({"ready": {"model": "motion", "class_names": names, "frame_rate": 4}}))
            return
        scores = {
            "frame": 0,
            "time": 0.0,
            "label": {"verb": "put", "noun": "cup"},
            "labels": {"verb": ["put", "take"], "noun": ["cup", "plate"]},
            "scores": {"verb": [0.9, 0.1], "noun": [0.6, 0.4]},
            "moving": True,
            "lag_seconds": 0.01,
        }
        socket.send(json.dumps({"scores": scores}))

    page = visitor.page
    page.route_web_socket(re.compile("/v1/stream"), lambda socket: socket.on_message(partial(answer, socket)))
    visitor.open()
    start_camera(page)
    expect(page.locator("#live-label")).to_have_text("put · cup")
    expect(page.locator("#live-bars h3")).to_have_text(["verb", "noun"])
    assert page.locator("#live-bars .best .bar-name").all_inner_texts() == ["put", "cup"]
    page.locator("#threshold").fill("70")
    expect(page.locator("#live-label")).to_have_text("put")


def test_refused_stream_gives_the_sentence_of_the_server(visitor, expect):
    def refuse(socket: Any, message: Any) -> None:
        socket.send(json.dumps({"error": "all 16 live streams are taken: try again later"}))
        socket.close(code=1013)

    page = visitor.page
    page.route_web_socket(re.compile("/v1/stream"), lambda socket: socket.on_message(partial(refuse, socket)))
    visitor.open()
    start_camera(page)
    expect(page.locator("#alert-text")).to_have_text("All 16 live streams are taken: try again later.")
    expect(page.get_by_role("button", name="Start the camera")).to_be_enabled()


def test_camera_that_is_not_allowed_gives_a_sentence(visitor, expect):
    page = visitor.page
    page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); }"
    )
    visitor.open()
    start_camera(page)
    expect(page.get_by_role("alert")).to_contain_text("The browser may not use the camera")


def test_model_that_cannot_follow_a_camera(visitor, expect):
    page = visitor.open()
    start_camera(page)
    expect(page.locator("#live-bars li")).to_have_count(13)
    page.get_by_role("combobox", name="Model").select_option("second")
    expect(page.get_by_role("button", name="Start the camera")).to_be_disabled()
    expect(page.get_by_text("This model cannot follow a live camera")).to_be_visible()


def test_token_is_asked_for_and_checked(browser, expect):
    with serve_process("motion", "--token", TOKEN) as address:
        visitor = Visitor(browser, address)
        page = visitor.page
        page.goto(address)
        expect(page.get_by_role("heading", name="This server needs a token")).to_be_visible()
        page.set_viewport_size({"width": 375, "height": 800})
        check_page(page)
        page.get_by_label("Token", exact=True).fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_contain_text("does not accept this token")
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#token-form")).to_be_hidden()
        open_sample(page, "moving left")
        expect(page.locator("#labels .headline")).to_have_text("moving left")
        page.get_by_role("tab", name="Camera").click()
        page.get_by_role("button", name="Start the camera").click()
        expect(page.locator("#live-bars li")).to_have_count(13)
        visitor.close(allowed=[FAILED])


def test_cancelled_request_can_be_tried_again(visitor, expect):
    page = visitor.page
    page.route("**/v1/predict*", lambda route: None)  # no answer ever
    visitor.open()
    open_sample(page, "moving left")
    expect(page.get_by_text("Predicting…")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#labels")).to_contain_text("No prediction")
    expect(page.locator("#work")).to_be_hidden()
    page.unroute_all(behavior="ignoreErrors")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#labels .headline")).to_have_text("moving left")


def test_page_is_usable_while_the_model_works(visitor, expect):
    page = visitor.page
    held = []
    page.route("**/v1/predict*", lambda route: held.append(route) if not held else route.continue_())
    visitor.open()
    open_sample(page, "moving left")
    expect(page.get_by_text("Predicting…")).to_be_visible()
    page.get_by_role("tab", name="Camera").click()
    expect(page.get_by_role("button", name="Start the camera")).to_be_enabled()
    page.get_by_role("tab", name="Video").click()
    open_sample(page, "receding")  # replaces the request that waits
    expect(page.locator("#labels .headline")).to_have_text("receding")
    expect(page.locator("#video-name")).to_contain_text("receding")
    page.unroute_all(behavior="ignoreErrors")


def test_server_that_is_gone_gives_a_sentence(tolerant_visitor, expect):
    page = tolerant_visitor.open()
    page.route("**/v1/predict*", lambda route: route.abort())
    open_sample(page, "moving left")
    expect(page.get_by_role("alert")).to_contain_text("The connection to the server failed")


def test_keyboard_alone_reaches_everything(visitor, expect):
    page = visitor.open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab_to(page, "#choose")
    tab_to(page, ".sample")
    for _ in range(4):  # to the long one
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#segments tbody tr").first).to_be_visible()
    expect(page.locator("#filmstrip canvas")).to_have_count(8)
    page.locator("#player").evaluate("video => video.pause()")
    tab_to(page, "#plot")
    page.keyboard.press("Home")
    expect(page.locator("#plot")).to_have_attribute("aria-valuenow", "0.00")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#plot")).not_to_have_attribute("aria-valuenow", "0.00")
    tab_to(page, "#why")
    page.keyboard.press("Enter")
    expect(page.locator(".relevance")).to_have_count(8)
    tab_to(page, "#tab-video", most=120)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-camera")).to_be_visible()
    tab_to(page, "#camera-start")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_no_serious_finding_and_no_sideways_scrolling(browser, address, scheme, width, expect):
    visitor = Visitor(
        browser, address, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    page = visitor.open()
    check_page(page)
    open_sample(page, "classes")
    expect(page.locator("#segments tbody tr").first).to_be_visible()
    page.get_by_role("button", name="Why?").click()
    expect(page.locator(".relevance")).to_have_count(8)
    check_page(page)
    page.get_by_role("tab", name="Camera").click()
    check_page(page)
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#live-bars li")).to_have_count(13)
    check_page(page)
    visitor.close()


def check_page(page: Any) -> None:
    assert serious_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
