"""Who is refused, and the headers of every answer."""

import json

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from helpers.serving import TIMEOUT, serve
from xvit.serving.settings import Access
from xvit.utils.errors import XViTError

TOKEN = "s3cret-token"
ORIGIN = "https://example.org"


@pytest.fixture(scope="module")
def guarded():
    """A server with a token, a second name and an origin that may use it."""
    access = Access(token=TOKEN, hosts=("video.example.org", "Other.Example.Net.", "fe80::1"), origins=(ORIGIN,))
    with serve(["motion"], access=access) as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/models", "/nowhere", "/metrics", "/page/none.js"])
def test_headers(server, path):
    with server.client() as client:
        headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Server" not in headers
    assert headers["Cache-Control"] in ("no-store", "no-cache")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "192.0.2.7:8000", "[::1]:8000"])
def test_hosts_that_are_accepted(server, host):
    with server.client() as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a b", "[", ""])
def test_other_hosts_are_refused(server, host):
    """What DNS rebinding needs is a name of its own."""
    with server.client() as client:
        response = client.get("/v1/models", headers={"Host": host})
    assert response.status_code == 403
    assert "not a name of this service" in response.json()["error"]


def test_a_named_host(guarded):
    with guarded.client() as client:
        assert client.get("/health/live", headers={"Host": "video.example.org"}).status_code == 200
        assert client.get("/health/live", headers={"Host": "other.example.net:80"}).status_code == 200
        assert client.get("/health/live", headers={"Host": "other.example.org"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/samples", "/v1/samples/long", "/v2", "/v2/models/motion", "/metrics"]
)
def test_a_token_is_needed(guarded, path):
    with guarded.client() as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
        ):
            response = client.get(path, headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert TOKEN not in response.text
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"]
)
def test_public_routes(guarded, path):
    with guarded.client() as client:
        assert client.get(path).status_code == 200


def test_an_upload_without_token_is_not_received(guarded, video):
    with guarded.client() as client:
        response = client.post("/v1/predict", files={"file": video.read_bytes()})
        assert response.status_code == 401
        assert response.headers["Connection"] == "close"
        assert guarded.metric("xvit_upload_bytes_total") == 0
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/v1/predict", files={"file": video.read_bytes()}, headers=headers).status_code == 200


@pytest.mark.parametrize(("origin", "status"), [(None, 200), ("https://evil.example", 403), ("null", 403)])
def test_posts_from_pages_of_other_origins_are_refused(server, video, origin, status):
    headers = {} if origin is None else {"Origin": origin}
    with server.client() as client:
        assert client.post("/v1/predict", files={"file": video.read_bytes()}, headers=headers).status_code == status
        own = client.post("/v1/predict", files={"file": video.read_bytes()}, headers={"Origin": server.url})
        assert own.status_code == 200


def test_cors_for_named_origins_only(guarded):
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with guarded.client() as client:
        allowed = client.options("/v1/predict", headers={"Origin": ORIGIN, **preflight})
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
        other = client.options("/v1/predict", headers={"Origin": "https://evil.example", **preflight})
        assert "Access-Control-Allow-Origin" not in other.headers
        answer = client.get("/v1/models", headers={"Origin": ORIGIN, "Authorization": f"Bearer {TOKEN}"})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def open_stream(running, **settings) -> dict:
    with connect(running.websocket_url, proxy=None, open_timeout=TIMEOUT, **settings) as socket:
        socket.send('{"format": "images"}')
        return json.loads(socket.recv(TIMEOUT)) | {"subprotocol": socket.subprotocol}


def refused(running, **settings) -> int:
    with pytest.raises(InvalidStatus) as caught:
        open_stream(running, **settings)
    return caught.value.response.status_code


def test_origins_of_websockets(server, guarded):
    assert "ready" in open_stream(server)
    assert "ready" in open_stream(server, origin=server.url)
    assert refused(server, origin="https://evil.example") == 403
    assert refused(server, origin=ORIGIN) == 403
    protocols = ["xvit", f"bearer.{TOKEN}"]
    assert "ready" in open_stream(guarded, origin=ORIGIN, subprotocols=protocols)
    assert refused(server, additional_headers={"Host": "evil.example"}) in (400, 403)


def test_the_token_of_websockets(guarded):
    answer = open_stream(guarded, subprotocols=["xvit", f"bearer.{TOKEN}"])
    assert "ready" in answer
    assert answer["subprotocol"] == "xvit"  # the token is not sent back
    assert "ready" in open_stream(guarded, additional_headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused(guarded) == 401
    assert refused(guarded, subprotocols=["xvit", "bearer.wrong"]) == 401


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page//etc/passwd",
        "/page/.hidden.js",
        "/page/%00.js",
        "/page/",
        "/page/a%5c..%5cb.js",
    ],
)
def test_page_files_are_those_of_the_page(server, path):
    with server.client() as client:
        response = client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": "no such page: see /docs"}


@pytest.mark.parametrize("token", ["", "two words", "tökén", "a,b", "a\n"])
def test_tokens_that_no_header_can_hold(token):
    with pytest.raises(XViTError, match="token: expected one or more letters"):
        Access(token=token)


@pytest.mark.parametrize("origin", ["*", "example.org", "https://", "https://example.org/", "ftp://example.org"])
def test_origins_that_are_none(origin):
    with pytest.raises(XViTError, match="expected a scheme and a host"):
        Access(origins=(origin,))
