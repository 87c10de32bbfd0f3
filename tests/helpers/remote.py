"""Servers on 127.0.0.1 for videos at addresses: moto's S3 with injected faults, and one of the web that misbehaves."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# (method, path) -> "", an HTTP status such as "503", or "reset" within the answer to a GET. Connections that are reset
# between two answers are opened again by the client itself.
Fault = Callable[[str, str], str]


class FaultyS3:
    """moto's S3, where `fault` decides before each request whether it fails. `log` has the requests: method and path.

    Attributes:
        url: of the endpoint.
        fault: None for no faults.
        denied: whether requests without the key "good" are refused, as S3 does.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.fault: Fault | None = None
        self.denied = False
        self.log: list[tuple[str, str]] = []
        self.injected = 0
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler)
        self._server.RequestHandlerClass.log_request = lambda *args, **options: None
        self._server.log = lambda *args: None
        self._server.handle_error = lambda *args: None  # of connections that were reset
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Create a bucket with these objects."""
        import boto3

        keys = {"aws_access_key_id": "good", "aws_secret_access_key": "good", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=self.url, **keys)
        client.create_bucket(Bucket=bucket)
        for key, data in files.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)
        client.close()
        self.log.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append((method, path))
        if self.denied and "Credential=good/" not in environ.get("HTTP_AUTHORIZATION", ""):
            body = b"" if method == "HEAD" else b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"
            start_response("403 Forbidden", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
            return [body]
        fault = self.fault(method, path) if self.fault else ""
        self.injected += bool(fault)
        if fault == "reset":
            return self._cut_short(environ["werkzeug.socket"], start_response)
        if fault:
            start_response(f"{fault} Fault", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)

    def _cut_short(self, connection: socket.socket, start_response) -> Iterator[bytes]:
        start_response("206 Partial Content", [("Content-Length", "1000")])
        yield b"a part"
        reset(connection)
        raise ConnectionResetError


def reset(connection: socket.socket) -> None:
    """End a connection as a crash does: with a reset instead of the usual end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(connection.detach())  # its files still refer to the object


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def web_server(answers: dict[str, Answer | bytes]) -> Iterator[str]:
    """A server that answers each path with bytes, or with a function of the request. Yields http://127.0.0.1:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            if answer is None:
                self.send_error(404)
            elif isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self)

        do_HEAD = do_GET  # noqa: N815 - the name that the server looks for

        def log_message(self, *args) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def send(
    request: BaseHTTPRequestHandler, data: bytes, *, length: int | None = -1, status: int = 200, **headers
) -> None:
    """Answer with some bytes; a length of None leaves the header out."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if length is not None:
        request.send_header("Content-Length", str(len(data) if length < 0 else length))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(data)
