"""What a process that reads hostile files gives up before it opens the first: a fault in a decoder stays in there.

Of other files, the network, other processes and new programs nothing is left to it. Each means is taken where the
kernel has it; `enter` says which it has not. Every one works without privileges, in a container as well.
"""

from __future__ import annotations

import ctypes
import json
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from finetune_operator.formats import landlock, seccomp

WANTED_LANDLOCK: Final = 6
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_SYSTEM: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
    "/sys/devices/system/cpu",
    "/proc/cpuinfo",
)
"""What libraries read. None of it is a secret, and /proc as a whole is not in it: it shows other processes."""


def enter(read: Iterable[Path] = (), write: Iterable[Path] = ()) -> list[str]:
    """Confine this process, for ever; what the kernel lacks for it, in words.

    read, write: files, or folders and all below, beside Python and its libraries. To be called before the first
    thread. The caller sets the limits of `bounds.py` before: they cannot be changed in here.
    """
    lacking = []
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    hide_memory()
    try:
        landlock.apply([*_python(), *map(Path, _SYSTEM), *read], write)
        if landlock.version() < WANTED_LANDLOCK:
            lacking.append(f"Landlock is of version {landlock.version()}, less than {WANTED_LANDLOCK}")
    except OSError as error:
        lacking.append(f"no Landlock ({error.strerror}): files of the same user can be read")
    try:
        seccomp.apply()
    except OSError as error:
        lacking.append(f"no seccomp filter ({error.strerror}): system calls are not restricted")
    return lacking


def hide_memory() -> None:
    """Let no other process of this user read this one's memory and environment, or trace it; no core dumps. Nothing
    happens on systems other than Linux."""
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def die_first() -> None:
    """Where memory ends, the kernel kills this process before others. To be called before `enter`."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _python() -> list[Path]:
    paths = sysconfig.get_paths()
    folders = {*sys.path, paths["stdlib"], paths["platstdlib"], f"{sys.base_prefix}/lib", f"{sys.prefix}/pyvenv.cfg"}
    return [Path(each) for each in sorted(folders) if each and Path(each) != Path("/")]


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), zero, zero, zero)


if __name__ == "__main__":  # a look at what this kernel has
    sys.stdout.write(json.dumps(enter()))
