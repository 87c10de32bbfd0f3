"""Processes that need no seconds of imports: forks of a server that has imported all of xvit, once per test process."""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
TIMEOUT = 600  # seconds after which a process that hangs is killed


class WarmProcess:
    """`python -m xvit` with these arguments, or `python -c CODE ...` if they begin so, in a process of its own.

    Args:
        env: variables beside those of this process.
        stdin, stdout, stderr: descriptors to use instead of an empty input and of what `wait` returns.
    """

    def __init__(
        self,
        *argv: object,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed by `wait`
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TIMEOUT)
        with open(os.devnull) as nothing, theirs:
            own = [file.fileno() for file in (nothing, *self._files)]
            given = zip((stdin, stdout, stderr), own, strict=True)
            fds = [file if descriptor is None else descriptor for descriptor, file in given]
            socket.send_fds(_server(), [b"."], [*fds, theirs.fileno()])
        self._lines = self._socket.makefile("rw")
        request = {"argv": [str(word) for word in argv], "cwd": os.getcwd(), "env": {**os.environ, **(env or {})}}
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        self.pid = int(self._lines.readline())

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> tuple[int, str, str]:
        """The exit code (-N for signal N), standard output and standard error."""
        try:
            code = int(self._lines.readline())
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            raise
        finally:
            self._lines.close()
            self._socket.close()
            out, err = (_text(file) for file in self._files)
        return code, out, err


def run_two(*argv: object) -> tuple[list[int], str, str]:
    """Run a command in two processes as torchrun does; returns their exit codes and what both of them wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [WarmProcess(*argv, env={**common, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]
    codes, outs, errs = zip(*(process.wait() for process in processes), strict=True)
    return list(codes), "".join(outs), "".join(errs)


def _text(file) -> str:
    with file:
        file.seek(0)
        return file.read()


@cache
def _server() -> socket.socket:
    """The socket for requests to the server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from helpers.warm_processes import serve; "
        words = [sys.executable, "-c", f"{code} serve({theirs.fileno()})"]
        server = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(_end, server, ours)
    return ours


def _end(server: subprocess.Popen, requests: socket.socket) -> None:
    requests.close()
    server.terminate()
    server.wait()


def serve(fd: int) -> None:
    """Import the package, then fork a process for each request: descriptors of three streams and of a socket."""
    import xvit.cli.eval
    import xvit.cli.parsing
    import xvit.cli.stream
    import xvit.evaluation
    import xvit.inference.live
    import xvit.training  # noqa: F401

    gc.freeze()  # a collection in a fork need not visit, and so copy, all that was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal is for the tests, which end the server
    requests = socket.socket(fileno=fd)
    while True:
        _, fds, _, _ = socket.recv_fds(requests, 1, 4)
        if not fds:
            return
        if os.fork() == 0:
            requests.close()
            _supervise(fds[:3], socket.socket(fileno=fds[3]))
        for each in fds:
            os.close(each)


def _supervise(streams: list[int], connection: socket.socket) -> None:
    """Run the command of one request in a child; tell its process id, then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lines = connection.makefile("rw")
    request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        os.closerange(3, 256)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        _run(request["argv"])
    lines.write(f"{pid}\n")
    lines.flush()
    _, status = os.waitpid(pid, 0)
    lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
    lines.flush()
    os._exit(0)


def _run(argv: list[str]) -> None:
    """Be `python` with these arguments; raises SystemExit, which ends the process as usual."""
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        exec(argv[1], {"__name__": "__main__"})
        sys.exit(0)
    sys.argv = ["xvit", *argv]
    runpy.run_module("xvit", run_name="__main__", alter_sys=True)
    sys.exit(0)
