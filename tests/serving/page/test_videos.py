"""Videos on the page of the service: prediction, frames, timeline, explanation, in a browser."""

import json
import re
from typing import Any
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest

from helpers.browser import change_answer, choose_file, drop_file, open_sample, wait_until
from xvit.inference.predictor import Predictor


def test_a_sample_is_classified_after_one_click(visitor, expect):
    page = visitor.open()
    open_sample(page, "moving left")
    expect(page.locator("#labels .headline")).to_have_text("moving left")
    expect(page.locator("#labels .bars li")).to_have_count(5)
    expect(page.locator("#labels .best .bar-value")).to_have_text(re.compile(r"\d+ %"))
    expect(page.locator("#announce")).to_have_text(re.compile("Prediction: moving left"))  # for screen readers


def test_uploaded_file_has_the_scores_of_the_predictor(visitor, videos, expect):
    path = videos / "val" / "receding" / "0000.mp4"
    [prediction] = Predictor("motion", device="cpu").predict([path])
    page = visitor.open()
    choose_file(page, path)
    expect(page.locator("#labels .bars li")).to_have_count(5)
    names = [prediction.labels[i].replace("_", " ") for i in range(5)]
    assert page.locator("#labels .bar-name").all_inner_texts() == names
    shares = [
        float(fill.evaluate("e => e.style.getPropertyValue('--share')")) for fill in page.locator(".bar-fill").all()[:5]
    ]
    np.testing.assert_allclose(shares, prediction.scores[:5], atol=1e-4)
    expect(page.locator("#video-name")).to_contain_text("0000.mp4")


def test_a_video_of_none_of_the_classes(visitor, expect):
    """Of a calibrated model: no class is stressed, but the nearest one is named."""
    change_answer(visitor.page, "/v1/predict", lambda value: value.update(known=False))
    page = visitor.open()
    open_sample(page, "moving left")
    expect(page.locator("#labels .headline")).to_have_text("none of these (nearest: moving left)")
    expect(page.locator("#labels .bars li")).to_have_count(5)
    expect(page.locator("#labels .best")).to_have_count(0)
    expect(page.locator("#announce")).to_have_text(re.compile("Prediction: none of these"))


def test_filmstrip_shows_the_frames_with_their_times_and_moves_the_player(visitor, expect):
    page = visitor.open()
    open_sample(page, "receding")
    expect(page.locator("#filmstrip canvas")).to_have_count(8)
    assert page.locator(".frame-time").first.inner_text() == "0.0 s"
    colors = page.evaluate(
        "[...document.querySelectorAll('#filmstrip canvas')].map(c => new Set(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).size)"
    )
    assert min(colors) > 10  # pictures, no empty canvas
    page.locator("#player").evaluate("video => video.pause()")
    page.get_by_role("button", name="Frame at 1.0 s").click()
    wait_until(page, "Math.abs(document.getElementById('player').currentTime - 1) < 0.1")


def test_dropped_video_is_classified(visitor, videos, expect):
    page = visitor.open()
    drop_file(page, videos / "val" / "moving_up" / "0000.mp4")
    expect(page.locator("#labels .headline")).to_be_visible()
    expect(page.locator("#filmstrip canvas")).to_have_count(8)


def test_file_that_is_no_video_gives_a_sentence(tolerant_visitor, tmp_path, expect):
    path = tmp_path / "notes.mp4"
    path.write_text("no video at all\n" * 100)
    page = tolerant_visitor.open()
    choose_file(page, path)
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    text = page.locator("#alert-text").inner_text()
    assert re.fullmatch(r"[A-Z].*\.", text)
    assert not re.search(r"[{}]|Traceback|/tmp", text)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(alert).to_be_hidden()


def test_too_large_file_is_not_sent(visitor, videos, expect):
    page = visitor.page
    change_answer(page, "/v1/models", lambda value: value["limits"].update(upload_bytes=1000))
    posts = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    visitor.open()
    choose_file(page, videos / "val" / "moving_up" / "0000.mp4")
    expect(page.get_by_role("alert")).to_contain_text("this server accepts")
    assert not posts


def test_file_that_the_browser_cannot_play_is_classified(visitor, tmp_path, expect):
    path = tmp_path / "old.avi"
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width = stream.height = 64
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    page = visitor.open()
    choose_file(page, path)
    expect(page.get_by_text("This browser cannot play the file")).to_be_visible()
    expect(page.locator("#labels .bars li")).to_have_count(5)
    expect(page.locator("#filmstrip canvas")).to_have_count(8)


def test_other_model_is_asked_about_the_same_video(visitor, expect):
    page = visitor.open()
    options = page.locator("#model option").all_inner_texts()
    assert options == ["motion", "second", "third"]
    open_sample(page, "moving left")
    expect(page.locator("#labels .headline")).to_have_text("moving left")
    with page.expect_request(re.compile(r"/v1/predict\?model=second")) as request:
        page.get_by_role("combobox", name="Model").select_option("second")
    assert request.value.response().status == 200
    expect(page.locator("#labels .bars li")).to_have_count(5)


def test_labels_of_several_tasks(visitor, expect):
    def two_tasks(value: Any) -> None:
        value["labels"] = {"verb": value["labels"], "noun": ["cup", "plate"]}
        value["scores"] = {"verb": value["scores"], "noun": [0.75, 0.25]}

    page = visitor.page
    change_answer(page, "/v1/predict", two_tasks)
    visitor.open()
    open_sample(page, "moving left")
    expect(page.locator("#labels .task")).to_have_count(2)
    expect(page.get_by_role("heading", name="noun")).to_be_visible()
    expect(page.locator("#labels .task").nth(1).locator(".bar-value").first).to_have_text("75 %")


def ask_for_timeline(address: str, sample: str) -> dict[str, Any]:
    """The timeline of a sample, asked for without a browser."""
    with urlopen(f"{address}/v1/samples/{sample}") as answer:
        video = answer.read()
    request = Request(f"{address}/v1/timeline", video, {"Content-Type": "video/mp4"})
    with urlopen(request) as answer:
        return json.loads(answer.read().splitlines()[-1])["result"]


def test_timeline_shows_segments_and_the_scores_at_the_playhead(visitor, expect):
    result = ask_for_timeline(visitor.address, "long")
    page = visitor.open()
    open_sample(page, "classes")
    expect(page.locator("#segments tbody tr")).to_have_count(len(result["segments"]))
    assert page.locator(".segment").count() == len(result["segments"]) > 0
    names = page.locator("#legend li").all_inner_texts()
    assert {segment["label"].replace("_", " ") for segment in result["segments"]} <= set(names)

    page.locator("#player").evaluate("video => video.pause()")
    plot = page.locator("#plot")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] / 2, "y": 60})
    middle = result["duration"] / 2
    expect(page.locator("#playhead-text")).to_contain_text(f"{middle:.1f} s")
    assert page.locator("#player").evaluate("video => video.currentTime") == pytest.approx(middle, abs=0.1)
    row = result["scores"][int(np.abs(np.array(result["times"]) - middle).argmin())]
    best = result["class_names"][int(np.argmax(row))].replace("_", " ")
    expect(page.locator("#playhead-text")).to_contain_text(best)
    assert plot.get_attribute("aria-valuetext") == page.locator("#playhead-text").inner_text()
    shown = page.locator("#playhead-scores .best").inner_text()
    assert abs(float(re.search(r"(\d+) %", shown)[1]) - 100 * max(row)) <= 1

    first = result["segments"][0]["start"]
    page.locator("#segments tbody button").first.click()
    expect(plot).to_have_attribute("aria-valuenow", f"{first:.2f}")


def test_timeline_shows_its_progress(visitor, expect):
    result = ask_for_timeline(visitor.address, "long")
    lines = [{"progress": {"decoded": 1, "total": 4}}, {"progress": {"decoded": 3, "total": 4}}, {"result": result}]
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    page = visitor.page
    page.route("**/v1/timeline*", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    visitor.open()
    page.evaluate("""() => {
        const note = (records) => window.texts.push(...records.flatMap((r) => [...r.addedNodes].map((n) => n.data)));
        window.texts = [];
        new MutationObserver(note).observe(document.getElementById("work-text"), { childList: true });
    }""")
    open_sample(page, "classes")
    expect(page.locator("#segments tbody tr").first).to_be_visible()
    texts = page.evaluate("window.texts")
    assert texts.index("Finding moments: 25 %") < texts.index("Finding moments: 75 %")
    expect(page.locator("#timeline-progress")).to_be_hidden()


def test_timeline_that_fails_on_the_way_gives_a_sentence(visitor, expect):
    body = '{"progress": {"decoded": 1, "total": 4}}\n{"error": "the video: damaged at 0:03"}\n'
    page = visitor.page
    page.route("**/v1/timeline*", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    visitor.open()
    open_sample(page, "classes")
    expect(page.locator("#alert-text")).to_have_text("The video: damaged at 0:03.")
    expect(page.locator("#timeline-card")).to_be_hidden()
    expect(page.locator("#labels .bars li")).to_have_count(5)  # the prediction stays


def test_short_video_has_no_timeline(visitor, expect):
    page = visitor.open()
    open_sample(page, "moving left")
    expect(page.locator("#filmstrip canvas")).to_have_count(8)
    expect(page.locator("#timeline-card")).to_be_hidden()


def test_why_shows_relevance_over_the_frames_and_how_it_adds_up(visitor, expect):
    page = visitor.open()
    open_sample(page, "moving left")
    why = page.get_by_role("button", name="Why?")
    expect(page.locator("#filmstrip canvas")).to_have_count(8)
    picture = "document.querySelector('#filmstrip canvas').toDataURL()"
    plain = page.evaluate(picture)
    with page.expect_response(re.compile("/v1/explain")) as response:
        why.click()
    answer = response.value.json()
    expect(page.locator(".relevance")).to_have_count(8)
    assert page.evaluate(picture) != plain
    assert heat(page, answer, np.argmax) > 20  # orange: more red than blue
    assert heat(page, answer, np.argmin) < -20
    expect(why).to_have_attribute("aria-pressed", "true")
    values = [number(text) for text in page.locator(".relevance-value").all_inner_texts()]
    np.testing.assert_allclose(values, answer["frame_relevance"], atol=0.006)
    clip, still, total = (number(text) for text in page.locator(".sum > div:not(.sign) dd").all_inner_texts())
    assert (clip, still) == pytest.approx((answer["logit"], answer["logit_still"]), abs=0.006)
    assert total == pytest.approx(answer["logit"] - answer["logit_still"], abs=0.006)
    expect(page.locator("#explanation")).to_contain_text("completeness error")

    with page.expect_response(re.compile("/v1/explain.*against=moving_right")) as response:
        page.get_by_role("combobox", name="rather than").select_option("moving_right")
    assert response.value.json()["against"] == "moving_right"
    expect(page.locator(".heat-legend")).to_contain_text("for “moving right”")
    why.click()
    expect(page.locator(".relevance")).to_have_count(0)
    expect(page.locator("#explanation")).to_be_hidden()


def heat(page: Any, answer: dict[str, Any], choose: Any) -> float:
    """How much more red than blue the patch is that has the highest or the lowest relevance."""
    relevance = np.array(answer["patch_relevance"])
    frame, row, column = np.unravel_index(choose(relevance), relevance.shape)
    script = """([frame, row, column, rows, columns]) => {
        const canvas = document.querySelectorAll('#filmstrip canvas')[frame];
        const [width, height] = [canvas.width / columns, canvas.height / rows];
        const pixels = canvas.getContext('2d').getImageData(column * width, row * height, width, height).data;
        return pixels.reduce((sum, value, i) => sum + [value, 0, -value, 0][i % 4], 0) / (pixels.length / 4);
    }"""
    return page.evaluate(script, [int(frame), int(row), int(column), *relevance.shape[1:]])


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_explanation_of_the_class_that_was_chosen_last_is_shown(visitor, expect):
    page = visitor.open()
    open_sample(page, "moving left")
    page.get_by_role("button", name="Why?").click()
    expect(page.locator(".relevance")).to_have_count(8)
    held = []
    page.route("**/v1/explain?*class=moving_up*", lambda route: held.append(route))  # no answer
    page.get_by_role("combobox", name="Why", exact=True).select_option("moving_up")
    page.get_by_role("combobox", name="Why", exact=True).select_option("moving_down")
    expect(page.locator(".heat-legend")).to_contain_text("for “moving down”")
    page.get_by_role("combobox", name="Why", exact=True).select_option("moving_up")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("combobox", name="Why", exact=True)).to_have_value("moving_down")
    assert len(held) == 2
    page.unroute_all(behavior="ignoreErrors")


def test_rounding_is_not_shown_as_a_result(visitor, expect):
    def shrink(value: dict[str, Any]) -> None:
        for name in ("frame_relevance", "patch_relevance"):
            value[name] = (1e-5 * np.array(value[name])).tolist()
        value.update(logit_still=value["logit"] - sum(value["frame_relevance"]))

    change_answer(visitor.page, "/v1/explain", shrink)
    page = visitor.open()
    open_sample(page, "moving left")
    with page.expect_response(re.compile("/v1/explain")) as response:
        page.get_by_role("button", name="Why?").click()
    expect(page.locator("#explanation")).to_contain_text("Motion changes nothing here")
    expect(page.locator(".sum")).to_have_count(0)
    assert abs(heat(page, response.value.json(), np.argmax)) < 5
    heights = [element.bounding_box()["height"] for element in page.locator(".relevance-fill").all()]
    assert max(heights) < 2


def test_explanation_that_does_not_add_up_is_called_a_rough_guide(visitor, expect):
    page = visitor.page
    change_answer(page, "/v1/explain", lambda value: value.update(completeness_error=0.2, error_bound=0.01))
    visitor.open()
    open_sample(page, "moving left")
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#explanation .warning")).to_contain_text("20.0 %")
    expect(page.locator("#explanation .warning")).to_contain_text("rough guide only")
