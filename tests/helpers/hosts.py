"""Two hosts on this machine: network namespaces with addresses, names and processes of their own, joined by a cable.

python tests/helpers/hosts.py NAME NAMESPACE TABLE COMMAND ...      run a command on one of them
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

ADDRESSES = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
_LINK = "eth0"
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000  # of linux/sched.h


class NoHostsError(Exception):
    """Hosts cannot be made on this machine; the message says why."""


@dataclass(frozen=True)
class Host:
    """One of the two hosts; see `two_hosts`.

    Args:
        name: its host name, which the other host can resolve.
        namespace: its network namespace.
        table: its /etc/hosts.
    """

    name: str
    namespace: str
    table: str

    def enter(self) -> None:
        """Move this process, and those that it starts from now on, to the host."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.namespace}") as file:
            _check(libc.setns(file.fileno(), _CLONE_NEWNET))
        _check(libc.unshare(_CLONE_NEWUTS | _CLONE_NEWNS))
        socket.sethostname(self.name)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", self.table, "/etc/hosts"], check=True)

    def command(self, *argv: object) -> list[str]:
        """A command as it is run on the host."""
        return [sys.executable, __file__, *astuple(self), *map(str, argv)]

    def kill(self) -> int:
        """SIGKILL all processes of the host at once. Returns their number."""
        killed = set()
        while pids := _ip("netns", "pids", self.namespace).split():  # again, for those that were just being started
            for pid in map(int, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(pids)
        return len(killed)

    def set_link(self, state: str) -> None:
        """Pull the host's network cable ("down"), or plug it in ("up")."""
        _ip("-n", self.namespace, "link", "set", "dev", _LINK, state)

    def change_address(self) -> None:
        """Give the host a new address, which both hosts know at once: another machine took its place.

        Whoever waits for an answer from the old address hears nothing.
        """
        table = Path(self.table)
        [old] = [line.split()[0] for line in table.read_text().splitlines() if line.endswith(f" {self.name}")]
        network, _, number = old.rpartition(".")
        new = f"{network}.{int(number) + len(ADDRESSES)}"
        _ip("-n", self.namespace, "address", "flush", "dev", _LINK)
        _ip("-n", self.namespace, "address", "add", f"{new}/24", "dev", _LINK)
        table.write_text(table.read_text().replace(f"{old} ", f"{new} "))


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """The hosts host-a and host-b, until the block ends. They share the file system. `folder` is for their tables.

    Raises:
        NoHostsError: this process is not root, iproute2 is missing, or the kernel allows no namespaces.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoHostsError("two hosts need Linux, root and iproute2")
    table = folder / "hosts"
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    table.write_text(f"127.0.0.1 localhost\n{names}")
    hosts = [Host(name, f"xvit-{os.getpid()}-{name}", str(table)) for name in ADDRESSES]
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        link = ["link", "add", _LINK, "netns", hosts[0].namespace, "type", "veth"]
        _ip(*link, "peer", "name", _LINK, "netns", hosts[1].namespace)
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{ADDRESSES[host.name]}/24", "dev", _LINK)
            _ip("-n", host.namespace, "link", "set", "dev", "lo", "up")
            host.set_link("up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            if Path("/run/netns", host.namespace).exists():
                host.kill()
                _ip("netns", "delete", host.namespace)


def _ip(*words: str) -> str:
    try:
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise NoHostsError(f"ip {' '.join(words)}: {error.stderr.strip()}") from None


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    Host(*sys.argv[1:4]).enter()
    os.execvp(sys.argv[4], sys.argv[4:])
