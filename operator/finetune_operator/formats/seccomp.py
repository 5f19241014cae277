"""The filter of system calls (seccomp): what `syscalls.py` allows, and EPERM for everything else.

Source: seccomp(2), `linux/filter.h`, `linux/seccomp.h`. A refused call fails instead of killing the process, so that a
library which only tries goes on without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from typing import Final

from finetune_operator.formats.syscalls import ARCHITECTURES, Architecture

PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
MAX_INSTRUCTIONS: Final = 4096

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF_0000
_ERROR: Final = 0x0005_0000
_KILL: Final = 0x8000_0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_CLONE_THREAD: Final = 0x0001_0000
_SHARED_ANONYMOUS: Final = 0x21  # MAP_SHARED | MAP_ANONYMOUS: memory that no limit of the process counts
_PRCTLS: Final = (15, 16, 0x5356_4D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: a thread's name and a mapping's
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
_FCNTLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)  # descriptors, flags and locks; not F_SETOWN: it signals

Program = list[tuple[int, int, int, int]]
"""code, jump if true, jump if false, operand."""


def program(of: Architecture, process: int) -> Program:
    """The filter for a process of this id, which may signal itself alone."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, of.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *(step for number in of.allowed for step in ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW))),
        *_call(of.mmap, [*_masked(3, _SHARED_ANONYMOUS), (_EQUAL, 1, 0, _SHARED_ANONYMOUS), (_RETURN, 0, 0, _ALLOW)]),
        *_call(of.clone, [*_masked(0, _CLONE_THREAD), (_EQUAL, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)]),
        *_call(of.clone3, [(_RETURN, 0, 0, _ERROR | errno.ENOSYS)]),  # its flags are out of sight: use clone
        *_call(of.kill, _if_one_of(0, [process])),
        *_call(of.tgkill, _if_one_of(0, [process])),
        *_call(of.prctl, _if_one_of(0, _PRCTLS)),
        *_call(of.ioctl, _if_one_of(1, _IOCTLS)),
        *_call(of.fcntl, _if_one_of(1, _FCNTLS)),
        *_call(of.prlimit64, _if_null(2, _if_one_of(0, [0]))),  # its own limits, to read
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
    ]


def apply() -> None:
    """Filter the calls of this process and its threads to come, for ever. Needs PR_SET_NO_NEW_PRIVS.

    Raises OSError: ENOSYS for an architecture that is not in the table.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise OSError(errno.ENOSYS, f"no filter is known for {platform.machine()}")
    steps = program(architecture, os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_ulong(ctypes.addressof(fprog))
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), pointer, zero, zero):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call(number: int, then: Program) -> Program:
    """`then`, which ends the filter or runs through to EPERM, for one call."""
    body = [*then, (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    return [(_EQUAL, 0, len(body), number), *body]


def _masked(argument: int, mask: int) -> Program:
    """Load the lower half of an argument (both architectures are little-endian), and mask it."""
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_AND, 0, 0, mask)]


def _if_one_of(argument: int, values: Iterable[int]) -> Program:
    allowed = [step for value in values for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), *allowed]


def _if_null(argument: int, then: Program) -> Program:
    """`then` where a pointer is NULL; else EPERM."""
    low, high = _ARGUMENTS + 8 * argument, _ARGUMENTS + 8 * argument + 4
    refused = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    return [(_LOAD, 0, 0, low), (_EQUAL, 1, 0, 0), refused, (_LOAD, 0, 0, high), (_EQUAL, 1, 0, 0), refused, *then]
