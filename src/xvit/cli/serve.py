"""xvit serve MODEL [MODEL ...] [--port N] [--host ADDRESS --token TOKEN] [...]

Serve models over HTTP, with a page for the browser at the same address. The first model is the default one.
MODEL is a trained or an exported model: a folder, hf://owner/name, or motion, which comes with xvit. Its name
is that of the folder; NAME=MODEL gives it another one. Exported models need no torch.
Without options, only programs on this machine can use the service. Another --host needs a --token (or the
environment variable XVIT_TOKEN), or --no-auth. SIGTERM and Ctrl-C end the service after the requests that
it has accepted were answered.

examples:
  xvit serve motion
  xvit serve sports=run/best other=onnx --port 8080
  XVIT_TOKEN=$(openssl rand -hex 16) xvit serve run/best --host 0.0.0.0 --allow-host video.example.org
  curl -F file=@clip.mp4 http://127.0.0.1:8000/v1/predict
"""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import TRAINED_OR_EXPORTED_MODEL, CommandParser, select
from xvit.serving.names import split_name
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import XViTError, check_installed

if TYPE_CHECKING:
    from xvit.serving.settings import Access

_MODULES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "websockets", "PIL")
_MB = 2**20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TOKEN = "XVIT_TOKEN"


def add_options(parser: CommandParser) -> None:
    parser.add("models MODEL", str, TRAINED_OR_EXPORTED_MODEL, nargs="+", check=_check_source)
    parser.add("--host ADDRESS", str, "address to listen on", default="127.0.0.1")
    parser.add("--port N", int, "port; 0 for any that is free", default=8000, low=0, high=65535)
    parser.add("--token TOKEN", str | None, f"what requests must bring; as {_TOKEN} says if unset")
    parser.add_switch("--no-auth", "let everybody who reaches another --host use the service")
    text = "another name by which the service is addressed, such as that of a proxy; repeatable"
    parser.add("--allow-host NAME", str, text, action="append")
    text = "an origin whose pages may use the service, such as https://example.org; repeatable"
    parser.add("--allow-origin ORIGIN", str, text, action="append")
    parser.add("--max-upload MB", float, "largest video", default=100.0, low=0.001)
    parser.add("--upload-timeout S", float, "seconds in which a video must have arrived", default=120.0, low=0.1)
    parser.add("--max-seconds S", float, "longest video", default=3600.0, low=0.1)
    parser.add("--deadline S", float, "seconds until an answer, after which a request fails", default=60.0, low=0.1)
    parser.add("--queue N", int, "requests that are accepted and not answered yet", default=64, low=1)
    parser.add("--streams N", int, "live streams at the same time", default=16, low=0)
    parser.add("--batch-clips N", int, "clips of different requests in one batch; 1 for no batching", default=8, low=1)
    parser.add("--batch-wait S", float, "seconds that an idle model waits for more clips", default=0.005, low=0)
    parser.add_device()
    parser.add_trust_code()


def _check_source(text: str) -> None:
    """Raise `XViTError` if there is no model of this name, NAME=MODEL or MODEL."""
    check_model(split_name(text)[1])


def run(args: Namespace) -> int:
    """Serve until a signal ends the process."""
    check_installed(_MODULES, extra="serve")
    access = _read_access(args)
    from xvit.serving.app import create_app
    from xvit.serving.models import load_models
    from xvit.serving.server import listen, run_server
    from xvit.serving.settings import Limits

    limits = Limits(
        upload_bytes=round(args.max_upload * _MB),
        upload_seconds=args.upload_timeout,
        seconds=args.max_seconds,
        deadline_seconds=args.deadline,
        **select(args, "queue", "streams", "batch_clips", "batch_wait"),
    )
    with listen(args.host, args.port) as listener:  # before the models are loaded, because it may fail
        models = load_models(args.models, limits, **select(args, "device", "trust_code"))
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        app = create_app(models, limits=limits, access=access)
        run_server(app, listener, on_ready=lambda: _announce(args, address, list(models)))
    return SUCCESS


def _read_access(args: Namespace) -> "Access":
    """Who may use the service; raises `XViTError` if that would be everybody, by oversight."""
    from xvit.serving.settings import Access

    token = args.token if args.token is not None else os.environ.get(_TOKEN) or None
    if args.no_auth and token is not None:
        raise XViTError(f"--no-auth and a token: choose one of them (--token or {_TOKEN} sets it)")
    if args.host not in _LOOPBACK and token is None and not args.no_auth:
        raise XViTError(
            f"--host {args.host}: other machines could use the service: set --token or {_TOKEN}, "
            "or allow everybody with --no-auth"
        )
    hosts = [*(args.allow_host or []), *([] if args.host in _LOOPBACK else [args.host])]
    return Access(token=token, hosts=tuple(hosts), origins=tuple(args.allow_origin or ()))


def _announce(args: Namespace, address: str, models: Sequence[str]) -> None:
    if args.json:
        print(json.dumps({"address": address, "models": list(models), "pid": os.getpid()}), flush=True)
    else:
        terminal.echo(f"serving {', '.join(models)} at {address} (Ctrl-C stops)")
