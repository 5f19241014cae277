"""Landlock: from here on, this process opens only these files, connects nowhere and signals nobody outside.

Source: https://docs.kernel.org/userspace-api/landlock.html and `linux/landlock.h`. Stacked on whatever else is in
force; needs no privilege.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 8, 1 << 14
_READ: Final = _READ_FILE | _READ_DIR
_WRITE: Final = _READ | _WRITE_FILE | _MAKE_REG | _TRUNCATE
_ON_FILES: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE
_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All that a version of the interface knows, executing among them; between these versions nothing was added."""
_NETWORK: Final = 0b11
"""TCP: bind and connect; from version 4 on."""
_SCOPES: Final = 0b11
"""Abstract Unix sockets and signals, both to processes outside; from version 6 on."""


def version() -> int:
    """Of the kernel's interface; 0 where it has none, or it is switched off."""
    return max(0, _call(_CREATE_RULESET, 0, 0, _VERSION))


def apply(read: Iterable[Path], write: Iterable[Path]) -> None:
    """read, write: files, or folders and all below them; those that do not exist are left out.

    Files that are open stay so. Needs PR_SET_NO_NEW_PRIVS. Raises OSError: ENOSYS or EOPNOTSUPP without Landlock.
    """
    known = version()
    if not known:
        raise _error()
    handled = _FILE_RIGHTS[max(each for each in _FILE_RIGHTS if each <= known)]
    attributes = struct.pack("=QQQ", handled, _NETWORK, _SCOPES)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes)
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.addressof(buffer), size, 0))
    try:
        for paths, rights in ((read, _READ), (write, _WRITE)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _checked(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, opened))
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0))
    finally:
        os.close(opened)


def _call(number: int, *arguments: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments)))


def _checked(result: int) -> int:
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
