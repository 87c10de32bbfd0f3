"""xvit serve: who may use it, its address, and its end."""

import json
import os
import signal
import socket
import sys

import httpx
import pytest

from helpers.serving import TIMEOUT
from helpers.warm_processes import WarmProcess
from xvit.serving.server import listen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "other machines could use the service: set --token or XVIT_TOKEN, or"),
        (["--no-auth", "--token", "abc"], "--no-auth and a token: choose one of them"),
        (["--token", "a b"], "token: expected one or more letters"),
        (["--allow-origin", "example.org"], "expected a scheme and a host"),
        (["--allow-host", "https://example.org"], "host 'https://example.org': expected a name alone"),
        (["--allow-host", "example.org:80"], "host 'example.org:80': expected a name alone"),
        (["--allow-host", ""], "host '': expected a name alone"),
        (["--port", "70000"], "port"),
        (["--host", "192.0.2.1", "--no-auth"], "--host 192.0.2.1 --port 8000: "),
        (["--queue", "0"], "queue"),
    ],
)
def test_wrong_options(cli_error, words, message):
    assert message in cli_error("serve", "motion", *words)


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_the_extra_is_missing(cli_error, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli_error("serve", "motion") == f"{package} is not installed: pip install 'xvit[serve]'"


def test_no_such_model(cli_error):
    assert "no such checkpoint" in cli_error("serve", "nowhere", "--port", "0")


def test_a_port_in_use(cli_error):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another address or port" in cli_error("serve", "motion", "--port", port)


class Service:
    """`xvit serve` in a process of its own, and the first line that it prints."""

    def __init__(self, *words: object, env: dict[str, str] | None = None) -> None:
        read, write = os.pipe()
        self.process = WarmProcess("serve", "motion", "--port", "0", *words, stdout=write, env=env)
        os.close(write)
        with os.fdopen(read) as out:
            self.line = out.readline()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it(number, code):
    service = Service("--json")
    address = json.loads(service.line)["address"]
    assert json.loads(service.line)["models"] == ["motion"]
    assert httpx.get(f"{address}/health/ready", trust_env=False, timeout=TIMEOUT).json() == {"ready": True}
    service.process.send_signal(number)
    found, _, err = service.process.wait()
    assert (found, err) == (code, "xvit: stopped: all accepted requests were answered\n")


def test_the_token_of_the_environment():
    service = Service(env={"XVIT_TOKEN": "abc"})
    address = service.line.split()[3]
    assert service.line == f"serving motion at {address} (Ctrl-C stops)\n"
    assert httpx.get(f"{address}/v1/models", trust_env=False, timeout=TIMEOUT).status_code == 401
    headers = {"Authorization": "Bearer abc"}
    assert httpx.get(f"{address}/v1/models", headers=headers, trust_env=False, timeout=TIMEOUT).status_code == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait()[0] == 143


def test_answers_do_not_wait_for_acknowledgements():
    """asyncio turns off Nagle's algorithm for sockets that name their protocol only; else each answer takes 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
