"""The system calls that a process which reads hostile files may make, by number: Python, NumPy, Arrow and no more.

Everything else is refused: sockets, processes, signals, tracing, mounts, keys, io_uring (which would go around the
filter), and whatever a later kernel adds. Source of the numbers: `asm/unistd_64.h` and `asm-generic/unistd.h` of Linux;
architectures share those above 424.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BOTH: Final = {
    # What is called most comes first: a filter is read from its start.
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "munmap": (11, 215),
    "madvise": (28, 233),
    "brk": (12, 214),
    "openat": (257, 56),
    "close": (3, 57),
    "newfstatat": (262, 79),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    # Files: where, Landlock says
    "readv": (19, 65),
    "writev": (20, 66),
    "pwrite64": (18, 68),
    "openat2": (437, 437),
    "close_range": (436, 436),
    "statx": (332, 291),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "dup": (32, 23),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "ftruncate": (77, 46),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "umask": (95, 166),
    # Memory and threads
    "mincore": (27, 232),
    "membarrier": (324, 283),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "futex_waitv": (449, 449),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    # What it is, and what time it is
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    "getcpu": (309, 168),
    # Its own signals, its end, waiting
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
}
"""Name -> (x86-64, arm64)."""

OLD: Final = {
    "open": 2,
    "stat": 4,
    "lstat": 6,
    "access": 21,
    "readlink": 89,
    "dup2": 33,
    "pipe": 22,
    "poll": 7,
    "select": 23,
    "epoll_wait": 232,
    "time": 201,
    "arch_prctl": 158,
}
"""Those that only x86-64 has."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """audit: its number in `linux/audit.h`. allowed: calls with whatever arguments. The others: calls whose arguments
    are looked at."""

    audit: int
    allowed: tuple[int, ...]
    mmap: int
    clone: int
    clone3: int
    kill: int
    tgkill: int
    prctl: int
    prlimit64: int
    ioctl: int
    fcntl: int


ARCHITECTURES: Final = {
    "x86_64": Architecture(
        audit=0xC000_003E,
        allowed=(*(number for number, _ in BOTH.values()), *OLD.values()),
        mmap=9,
        clone=56,
        clone3=435,
        kill=62,
        tgkill=234,
        prctl=157,
        prlimit64=302,
        ioctl=16,
        fcntl=72,
    ),
    "aarch64": Architecture(
        audit=0xC000_00B7,
        allowed=tuple(number for _, number in BOTH.values()),
        mmap=222,
        clone=220,
        clone3=435,
        kill=129,
        tgkill=131,
        prctl=167,
        prlimit64=261,
        ioctl=29,
        fcntl=25,
    ),
}
"""By `platform.machine()`."""
