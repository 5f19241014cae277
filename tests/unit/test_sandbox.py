"""A process that reads hostile files has been taken over: it tries everything, in vain."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_operator.formats import landlock, sandbox, seccomp
from finetune_operator.formats.syscalls import ARCHITECTURES, BOTH
from tests import escapes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own means")

FREE = """
import json, os, sys
from tests import escapes
os.chdir(sys.argv[2])
print(json.dumps(escapes.attempt_all(escapes.from_text(sys.argv[1]))))
"""
TAKEN_OVER = {
    "operator": """
import json, os, sys
from pathlib import Path
from finetune_operator.backends.datasets import reader, worker
from tests import escapes
target = escapes.from_text(sys.argv[1])
def read(request):
    tried = {**escapes.attempt_all(target), **escapes.attempt_the_rest(), "environment": " ".join(os.environ)}
    Path("tried.json").write_text(json.dumps(tried))
    return []
reader.read = read
folder = Path(sys.argv[2])
os.chdir(folder)
(folder / worker.REQUEST).write_text(json.dumps(
    {"title": "t", "files": {}, "names": [], "needs": None, "columns": [], "filled": [], "chats": [], "limit": 1000}))
worker.main(folder, 2**29)
print((folder / "tried.json").read_text())
""",
    "trainer": """
import io, json, os, sys
from finetune_trainer.data import reader_process
from tests import escapes
os.chdir(sys.argv[2])
reader_process.confine(2**29, io.BytesIO(b'["/etc/hostname"]\\n'), io.BytesIO())
target = escapes.from_text(sys.argv[1])
print(json.dumps({**escapes.attempt_all(target), **escapes.attempt_the_rest()}))
""",
}


def outcomes(code: str, target: escapes.World, folder: Path) -> dict[str, str]:
    """What came of each attempt, in a process of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "planted").symlink_to(target.token)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, escapes.as_text(target), str(folder)],
        env={"PYTHONPATH": f"{root}/operator:{root}/trainer-image:{root}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_what_is_free_to_every_process_is_to_be_had(tmp_path: Path) -> None:
    """Else nothing would follow from the refusals below."""
    with escapes.world(tmp_path / "world") as target:
        found = outcomes(FREE, target, tmp_path / "own")
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if yama.exists() and yama.read_text().strip() != "0":
        for name in ("trace it", "read the memory of another process", "read it in one call"):
            del found[name]
    assert set(found.values()) == {"done"}, found


@pytest.mark.skipif(landlock.version() < sandbox.WANTED_LANDLOCK, reason="this kernel cannot")
@pytest.mark.parametrize("reader", TAKEN_OVER)
def test_nothing_of_it_is_left_to_a_reader(reader: str, tmp_path: Path) -> None:
    with escapes.world(tmp_path / "world") as target:
        found = outcomes(TAKEN_OVER[reader], target, tmp_path / "own")
        found.pop("environment", None)
        assert Path(target.token).stat().st_mode & 0o777 != 0o600
    assert set(found.values()) <= {"Permission denied", "Operation not permitted"}, found
    assert len(found) > 30


def test_what_the_kernel_lacks_is_said() -> None:
    """As on a kernel of before 2021, and on an architecture that is not in the table."""
    code = """
import platform, sys
from finetune_operator.formats import landlock, sandbox
landlock._CREATE_RULESET = 999
platform.machine = lambda: "riscv64"
print(*sandbox.enter(), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "no Landlock (Function not implemented): files of the same user can be read",
        "no seccomp filter (no filter is known for riscv64): system calls are not restricted",
    ]


def test_both_architectures_have_a_filter_that_the_kernel_takes() -> None:
    for architecture in ARCHITECTURES.values():
        steps = seccomp.program(architecture, 7)
        assert len(steps) < seccomp.MAX_INSTRUCTIONS
        for position, (code, if_true, if_false, _) in enumerate(steps):
            if code == 0x15:
                assert position + 1 + max(if_true, if_false) < len(steps)
        assert len(set(architecture.allowed)) == len(architecture.allowed)
    assert platform.machine() not in ARCHITECTURES or len(BOTH) > 60
