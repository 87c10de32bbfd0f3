"""The examples of docs/guides/serve.md, against a server."""

import re
from pathlib import Path

DOCUMENT = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, flags=re.DOTALL | re.MULTILINE)


def without_digits(text: str) -> list[str]:
    return re.findall(r"[a-z_]{3,}", text)


def test_the_python_client(server, videos, tmp_path, monkeypatch, capsys):
    (tmp_path / "samples").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    [example] = blocks("python")
    assert len(example.strip().splitlines()) < 15
    exec(compile(example.replace("http://127.0.0.1:8000", server.url), "docs/guides/serve.md", "exec"), {})
    [shown, *_] = blocks("output")
    assert without_digits(capsys.readouterr().out.split("\n", 1)[1]) == without_digits(shown.split("\n", 1)[1])


def test_all_routes_and_the_limits_are_in_the_tables(server):
    with server.client() as client:
        routes = set(client.get("/openapi.json").json()["paths"])
    for route in routes - {"/v1/samples", "/v1/samples/{name}", "/v2/health/live", "/v2/health/ready"}:
        assert route.replace("{name}", "NAME") in DOCUMENT
    for status in (408, 413, 415, 422, 429, 503, 504):
        assert f"\n| {status} |" in DOCUMENT
