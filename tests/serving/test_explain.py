"""Explanations over HTTP equal those of `explain_video`."""

import pytest

from xvit.inference.explain import explain_video


@pytest.mark.parametrize(
    "options",
    [{}, {"class": "receding", "against": "moving_left", "method": "quick"}],
    ids=["best class", "two classes"],
)
def test_the_answer_is_that_of_the_library(server, predictor, video, options):
    with server.client() as client:
        as_fields = client.post("/v1/explain", data=options, files={"file": video.read_bytes()})
        as_params = client.post("/v1/explain", params=options, files={"file": video.read_bytes()})
    settings = {"target": options.get("class"), "against": options.get("against")}
    expected = explain_video(predictor, video, method=options.get("method", "integrated"), **settings)
    for response in (as_fields, as_params):
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["model"] == "motion"
        for name in ("class", "against", "method", "error_bound", "times"):
            assert answer[name] == expected.to_dict()[name]
        for name in ("logit", "logit_still", "completeness_error"):
            assert answer[name] == pytest.approx(expected.to_dict()[name], abs=1e-4)
        assert answer["frame_relevance"] == pytest.approx(expected.frame_relevance, abs=1e-4)
        assert answer["patch_relevance"] == pytest.approx(expected.relevance, abs=1e-4)
        assert len(answer["frames"]) == len(answer["times"])
        assert all(frame.startswith("data:image/jpeg;base64,") for frame in answer["frames"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class": "moving_lift"}, 'Did you mean "moving_left"?'),
        ({"method": "slow"}, "method"),
        ({"class": "receding", "against": "receding"}, "against='receding': the class that is explained; choose"),
    ],
)
def test_wrong_parameters(server, video, options, message):
    with server.client() as client:
        response = client.post("/v1/explain", data=options, files={"file": video.read_bytes()})
    assert response.status_code == 422
    assert message in response.json()["error"]
    assert "video" not in response.json()["error"]
