"""Opens a file by a path that has been resolved and checked: if somebody puts a link into it meanwhile, it fails."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

_OPENAT2: Final = 437  # the same on every architecture
_AT_FDCWD: Final = -100
_RESOLVE_NO_SYMLINKS: Final = 0x04
_MISSING: Final = (errno.ENOSYS, errno.EPERM, errno.E2BIG)
"""What kernels before 5.6, and filters of system calls that do not know it, answer."""


def open_exact(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor. Raises OSError: ELOOP where a part of the path is a link (of old kernels: where the last is)."""
    flags |= os.O_CLOEXEC
    how = ctypes.create_string_buffer(struct.pack("=QQQ", flags, 0, _RESOLVE_NO_SYMLINKS), 24)
    libc = ctypes.CDLL(None, use_errno=True)
    name = ctypes.create_string_buffer(os.fsencode(path))
    arguments = (ctypes.addressof(name), ctypes.addressof(how), 24)
    if hasattr(libc, "syscall") and os.uname().sysname == "Linux":
        opened = int(libc.syscall(ctypes.c_long(_OPENAT2), ctypes.c_long(_AT_FDCWD), *map(ctypes.c_ulong, arguments)))
        if opened >= 0:
            return opened
        if ctypes.get_errno() not in _MISSING:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return os.open(path, flags | os.O_NOFOLLOW)
