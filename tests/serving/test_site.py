"""The pages, the samples, the health routes and the metrics."""

import re

import pytest

from xvit import Predictor


def test_docs_list_all_routes_and_need_no_other_host(server):
    with server.client() as client:
        schema, docs = client.get("/openapi.json").json(), client.get("/docs")
    assert docs.headers["Content-Type"] == "text/html; charset=utf-8"
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in docs.text
    assert "temporal_views" in docs.text
    assert not re.search(r"https?://|<script|style=", docs.text)
    for name in ("/redoc", "/docs/oauth2-redirect"):
        with server.client() as client:
            assert client.get(name).status_code == 404


def test_samples_are_videos_of_their_classes(server):
    predictor = Predictor("motion", device="cpu")
    with server.client() as client:
        samples = client.get("/v1/samples").json()
        assert len(samples) >= 4
        for sample in samples:
            response = client.get(sample["url"])
            assert response.headers["Content-Type"] == "video/mp4"
            if sample["name"] != "long":
                assert predictor(response.content).labels[0] == sample["label"]
        part = client.get(samples[0]["url"], headers={"Range": "bytes=0-9"})  # players read parts
        assert (part.status_code, len(part.content)) == (206, 10)
        missing = client.get("/v1/samples/none")
        assert missing.status_code == 404
        assert "/v1/samples" in missing.json()["error"]


def test_open_inference_protocol(server):
    with server.client() as client:
        assert client.get("/v2").json() == {"name": "xvit", "version": "0.1.0", "extensions": []}
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/motion/ready").json() == {"name": "motion", "ready": True}
        model = client.get("/v2/models/motion").json()
        assert model["platform"] == "pytorch"
        assert [output["shape"] for output in model["outputs"]] == [[13], [13]]
        assert client.get("/v2/models/none/ready").status_code == 404


def test_metrics_count_answers(server, video):
    with server.client() as client:
        before = server.metric("xvit_requests_total", route="/v1/predict", status="200")
        client.post("/v1/predict", files={"file": video.read_bytes()})
        response = client.get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        line = f'xvit_requests_total{{route="/v1/predict",status="200"}} {before + 1}'
        assert line in response.text.splitlines()
        client.get("/some/random/path")
        assert "random" not in client.get("/metrics").text


def test_wrong_methods_and_addresses(server):
    with server.client() as client:
        wrong = client.get("/v1/predict")
        assert wrong.status_code == 405
        assert wrong.headers["Allow"] == "POST"
        assert "does not accept this method" in wrong.json()["error"]
        assert client.get("/v1/models/").status_code == 404


@pytest.mark.parametrize(
    "path", ["none.css", "a" * 300 + ".css", "a/" * 3000 + "a.css", "style.css/a.css", "%00.css", "../site.css", ".css"]
)
def test_a_page_file_that_is_none(server, path, caplog):
    with server.client() as client:
        response = client.get(f"/page/{path}")
    assert response.status_code == 404
    assert "/docs" in response.json()["error"]
    assert not caplog.records


def test_an_unexpected_error_of_a_route_without_videos_is_json(server, monkeypatch):
    def fail():
        raise RuntimeError("secret detail")

    monkeypatch.setattr(server.service.metrics, "text", fail)
    with server.client() as client:
        response = client.get("/metrics")
    assert response.status_code == 500
    assert "server's log" in response.json()["error"]
    assert "secret" not in response.text
