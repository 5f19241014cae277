"""What somebody who has taken over a process that reads hostile files would try, and whom they would try it on."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SECRET = "hunter2-of-the-operator"
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_CLONE_NEWUSER = 0x1000_0000


@dataclass(frozen=True)
class World:
    """token: a file that every process of this user may read. victim: a process of this user, with SECRET in its
    environment and at `address`."""

    token: str
    outside: str
    port: int
    unix: str
    abstract: str
    victim: int
    address: int


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Everything is there to be had."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(SECRET)
    code = (
        "import ctypes,sys; b=ctypes.create_string_buffer(sys.argv[1].encode()); "
        "print(ctypes.addressof(b), flush=True); sys.stdin.read()"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", code, SECRET],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SECRET": SECRET},
    )
    abstract = f"finetune-test-{os.getpid()}-{victim.pid}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, _listening(str(folder / "unix")), _listening("\0" + abstract):
        try:
            assert victim.stdout is not None
            address = int(victim.stdout.readline())
            yield World(
                token=str(folder / "token"),
                outside=str(folder / "written"),
                port=tcp.getsockname()[1],
                unix=str(folder / "unix"),
                abstract=abstract,
                victim=victim.pid,
                address=address,
            )
        finally:
            victim.kill()
            victim.communicate()


def attempt_all(target: World) -> dict[str, str]:
    """Name of each attempt -> "done", or how it was refused. Leaves the victim alive."""
    attempts: dict[str, Callable[[World], Any]] = {
        "read the token": lambda t: Path(t.token).read_text(),
        "read it through a link of its own": _through_a_link,
        "read it through a link that lies there": lambda t: Path("planted").read_text(),
        "read the environment of another process": lambda t: Path(f"/proc/{t.victim}/environ").read_bytes(),
        "read its own environment, for what is in it": lambda t: Path("/proc/self/environ").read_bytes(),
        "read the memory of another process": _proc_mem,
        "read it in one call": _vm_read,
        "trace it": _trace,
        "signal it": lambda t: os.kill(t.victim, signal.SIGCONT),
        "signal everybody": lambda t: os.kill(-1, 0),
        "signal it by queue": lambda t: _libc("sigqueue", t.victim, 0, None),
        "hold it by descriptor": lambda t: os.close(os.pidfd_open(t.victim)),
        "slow it down": lambda t: os.setpriority(os.PRIO_PROCESS, t.victim, 5),
        "limit it": lambda t: resource.prlimit(t.victim, resource.RLIMIT_CORE, (0, 0)),
        "connect to loopback": lambda t: socket.create_connection(("127.0.0.1", t.port), timeout=5).close(),
        "listen on loopback": lambda t: socket.create_server(("127.0.0.1", 0)).close(),
        "send a datagram": _datagram,
        "connect to a Unix socket": lambda t: _unix(t.unix),
        "connect to an abstract one": lambda t: _unix("\0" + t.abstract),
        "make a pair of sockets": lambda t: socket.socketpair(),
        "ask the kernel over netlink": lambda t: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
        "fork": _fork,
        "execute": lambda t: subprocess.run(["/bin/true"], check=True),
        "spawn": lambda t: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "write outside": lambda t: Path(t.outside).write_text("x"),
        "list a folder outside": lambda t: os.listdir(Path(t.token).parent),
        "remove a file outside": lambda t: Path(t.outside).unlink(),
        "change the mode of a file outside": lambda t: Path(t.token).chmod(0o600),
        "make a file in memory": lambda t: os.close(os.memfd_create("x")),
        "share memory that nothing counts": lambda t: mmap.mmap(-1, 4096).close(),
    }
    outcomes = {}
    for name, attempt in attempts.items():
        try:
            attempt(target)
            outcomes[name] = "done"
        except OSError as error:
            outcomes[name] = error.strerror or type(error).__name__
    return outcomes


FORBIDDEN_TO_ALL: dict[str, Callable[[], None]] = {
    "make namespaces": lambda: _libc("unshare", _CLONE_NEWUSER),
    "mount": lambda: _libc("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "use io_uring": lambda: _syscall(425, 1, None),
    "watch faults of memory": lambda: _syscall(323 if os.uname().machine == "x86_64" else 282, 0),
    "load a program into the kernel": lambda: _syscall(321 if os.uname().machine == "x86_64" else 280, 0, None, 0),
    "use keys": lambda: _syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0),
}
"""What a container may refuse as well, so that nothing follows from it alone."""


def attempt_the_rest() -> dict[str, str]:
    """As `attempt_all`."""
    outcomes = {}
    for name, attempt in FORBIDDEN_TO_ALL.items():
        try:
            attempt()
            outcomes[name] = "done"
        except OSError as error:
            outcomes[name] = error.strerror or type(error).__name__
    return outcomes


def as_text(target: World) -> str:
    """For a command line."""
    return json.dumps(asdict(target))


def from_text(text: str) -> World:
    """Of `as_text`."""
    return World(**json.loads(text))


@contextmanager
def _listening(address: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        yield


def _through_a_link(target: World) -> str:
    link = Path(f"link-{os.getpid()}")
    link.symlink_to(target.token)
    try:
        return link.read_text()
    finally:
        link.unlink()


def _proc_mem(target: World) -> None:
    with open(f"/proc/{target.victim}/mem", "rb", buffering=0) as memory:
        memory.seek(target.address)
        assert memory.read(len(SECRET)) == SECRET.encode()


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _vm_read(target: World) -> None:
    own = ctypes.create_string_buffer(len(SECRET))
    here, there = _Vector(ctypes.addressof(own), len(SECRET)), _Vector(target.address, len(SECRET))
    _libc("process_vm_readv", target.victim, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    assert own.raw == SECRET.encode()


def _trace(target: World) -> None:
    _libc("ptrace", _PTRACE_ATTACH, target.victim, None, None)
    os.waitpid(target.victim, 0x4000_0000)
    _libc("ptrace", _PTRACE_DETACH, target.victim, None, None)


def _datagram(target: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", target.port))


def _unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)


def _fork(target: World) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _libc(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _syscall(number: int, *arguments: Any) -> None:
    _libc("syscall", ctypes.c_long(number), *arguments)
