"""Every reason is set somewhere, and everything that is set is a reason: read from the code of operator and trainer.

What Kubernetes says is passed on in its own words; that part is shown by passing it on, not read from the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.status import FineTuneStatus
from finetune_operator.backends import errors as backends_errors
from finetune_operator.backends.errors import FailureKind, UpstreamError
from finetune_operator.backends.job import waits
from finetune_operator.backends.job.interpret import interpret
from finetune_operator.cli.output.advice import ADVICE
from finetune_operator.cli.output.snapshot import snapshot
from finetune_trainer.errors import TrainerReason
from tests.cluster.paths import CHECKOUT
from tests.unit.observations import RUNNING, failed, job, observe, planned, waiting_pod

OPERATOR = CHECKOUT / "operator" / "finetune_operator"
TRAINER = CHECKOUT / "trainer-image" / "finetune_trainer"

WORD = re.compile(r"([A-Z][a-z0-9]+|URL)+")
"""A reason; a message has spaces, and a name of something else does not stand where a reason does."""
CARRIERS = {"Verdict", "RunState", "Wait", "Ending", "Announcement", "Failure"}
"""What the operator carries reasons in, besides the errors of calls to providers and stores."""
NEVER_RETRIED = {"ConfigError", "DataError", "OutOfMemory"}
"""The trainer's errors whose exit codes end a run. The reason of any other error stays in the pod's log: the run's is
BackoffLimitExceeded, if no attempt does better."""
ENUMERATIONS: dict[str, type[Reason | TrainerReason]] = {"Reason": Reason, "TrainerReason": TrainerReason}
PASSED_ON = {"reason", "refused"}
"""Parameters by which the trainer's functions take the reason of the errors that they raise."""


def sources(*folders: Path) -> dict[str, str]:
    """The modules below the folders."""
    return {
        str(path.relative_to(CHECKOUT)): path.read_text() for each in folders for path in sorted(each.rglob("*.py"))
    }


# The operator


def set_by_operator(code: str, enum: str = "Reason") -> Iterator[str]:
    """Reasons (or condition types) that a module sets. One that is only compared with is not set."""
    tree = ast.parse(code)
    compared = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Compare) for node in ast.walk(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == enum:
            if id(node) not in compared:
                yield str(getattr({"Reason": Reason, "ConditionType": ConditionType}[enum], node.attr))
        elif enum == "Reason":
            yield from _written_out(node)


def _written_out(node: ast.AST) -> Iterator[str]:
    """Reasons that do not come from the enumeration."""
    places: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        places = [value for key, value in zip(node.keys, node.values, strict=True) if _text(key) == "reason"]
    elif isinstance(node, ast.Call):
        places = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        places += node.args if _callee(node) in CARRIERS else []
    elif isinstance(node, ast.AnnAssign | ast.Assign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        places = [node.value] if any(_name(target) in ("reason", "default_reason") for target in targets) else []
    yield from (text for place in places if (text := _text(place)) and WORD.fullmatch(text))


def _text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _callee(node: ast.Call) -> str:
    return _name(node.func)


# The trainer


def set_by_trainer(modules: dict[str, str]) -> set[str]:
    """Reasons of errors that end a run, with the constants and the parameters by which they get there."""
    trees = [ast.parse(code) for code in modules.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    constants = {name: texts for tree in trees for name, texts in _constants(tree)}
    errors = _with_subclasses(nodes, NEVER_RETRIED)
    passing = {name: place for node in nodes for name, place in _passing(node, errors)}
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.name in errors:
            found.update(_texts([each for inner in ast.walk(node) for each in _given(inner)], constants))
        elif isinstance(node, ast.Call) and _callee(node) in errors:
            found.update(_texts([*node.args[1:], *(each.value for each in node.keywords)], constants))
        elif isinstance(node, ast.Call) and (place := passing.get(_callee(node))) is not None:
            found.update(_at(place, node.args, constants))
    return found


def _given(node: ast.AST) -> list[ast.expr]:
    """The default of a parameter, or what is handed to the class above."""
    if isinstance(node, ast.FunctionDef):
        return [*node.args.defaults]
    return node.args[1:] if isinstance(node, ast.Call) and _callee(node) == "__init__" else []


def _passing(node: ast.AST, errors: set[str]) -> Iterator[tuple[str, int]]:
    """(function or class, place from the end) of a parameter that becomes the reason of one of the errors."""
    functions = [node] if isinstance(node, ast.FunctionDef) else node.body if isinstance(node, ast.ClassDef) else []
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call) and _callee(each) in errors]
    used = {_name(place).removeprefix("_") for each in calls for place in each.args[1:]}
    for function in functions:
        names = [each.arg for each in function.args.args] if isinstance(function, ast.FunctionDef) else []
        for name in PASSED_ON & used & set(names):
            yield getattr(node, "name", ""), names.index(name) - len(names)


def _at(place: int, arguments: list[ast.expr], constants: dict[str, list[str]]) -> Iterator[str]:
    """The reason that is handed over at a place, counted from the end: what comes before may be of unknown length."""
    flat: list[list[str]] = []
    for each in arguments:
        texts = list(_texts([each], constants))
        flat += [[text] for text in texts] if isinstance(each, ast.Starred) else [texts]
    yield from flat[place] if -place <= len(flat) else []


def _with_subclasses(nodes: list[ast.AST], names: set[str]) -> set[str]:
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    while more := {each.name for each in classes if names & set(map(_name, each.bases))} - names:
        names = names | more
    return names


def _constants(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            members = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            yield _name(target), [text for member in members if (text := _reason(member))]


def _texts(places: list[ast.expr], constants: dict[str, list[str]]) -> Iterator[str]:
    for place in places:
        inner = place.value if isinstance(place, ast.Starred) else place
        texts = [text] if (text := _reason(inner)) else constants.get(_name(inner), [])
        yield from (text for text in texts if WORD.fullmatch(text))


def _reason(node: ast.expr) -> str | None:
    """A reason that is written out, or a member of one of the two enumerations."""
    enumeration = ENUMERATIONS.get(_name(node.value)) if isinstance(node, ast.Attribute) else None
    return str(enumeration[node.attr]) if enumeration is not None and isinstance(node, ast.Attribute) else _text(node)


# Kubernetes


JOB_REASONS = ("BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy")
"""With which the Job controller ends a Job such as ours: one completion, a pod failure policy, a deadline."""
REFUSED = {"type": "Warning", "reason": "FailedCreate", "message": "pods is forbidden: violates PodSecurity"}


def from_kubernetes() -> set[str]:
    """What the operator makes of Kubernetes' own reasons."""
    containers = (*waits._IMAGE_TROUBLE, *waits._CONFIG_TROUBLE)
    return {
        *(interpret(job(status=failed(reason))).reason for reason in JOB_REASONS),
        *(waits.waiting((waiting_pod(reason),), ()).reason for reason in containers),
        waits.waiting((), (REFUSED,)).reason,
    }


# The tests


def emitted() -> set[str]:
    operator = {
        reason
        for code in sources(OPERATOR / "controller", OPERATOR / "backends").values()
        for reason in set_by_operator(code)
    }
    return operator | set_by_trainer(sources(TRAINER)) | from_kubernetes()


def test_every_reason_is_set_somewhere() -> None:
    assert set(Reason) - emitted() == set()


def test_everything_that_is_set_is_a_reason() -> None:
    assert emitted() - set(Reason) == set()


def test_every_condition_type_is_set_somewhere() -> None:
    controller = sources(OPERATOR / "controller").values()
    assert {kind for code in controller for kind in set_by_operator(code, "ConditionType")} == set(ConditionType)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("draft.stalled = Verdict(True, Reason.NAME_CONFLICT, m)", ["NameConflict"]),
        ("if before.get('reason') == Reason.PREEMPTED: pass", []),
        ("if error.reason != Reason.UPSTREAM_GONE: raise Gone(m, reason=Reason.PENDING)", ["Pending"]),
        ("raise Blocked(m, reason='NoSuchReason')", ["NoSuchReason"]),
        ("record = {'phase': 'Cancelled', 'reason': 'NoSuchReason'}", ["NoSuchReason"]),
        ("draft.stalled = Verdict(True, 'NoSuchReason', 'Words of a message.')", ["NoSuchReason"]),
        ("class Lost(UpstreamError):\n    default_reason = 'NoSuchReason'", ["NoSuchReason"]),
        ("raise Refused(503, 'ServiceUnavailable', m)", []),
    ],
)
def test_what_an_operator_s_line_sets(line: str, found: list[str]) -> None:
    assert list(set_by_operator(line)) == found


ERRORS = (
    "class RunError(Exception): ...\nclass ConfigError(RunError):\n def __init__(self, m, reason='BadConfig'): ...\n"
)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise ConfigError(m, 'NoSuchReason')", {"NoSuchReason"}),
        ("raise ConfigError(m, Reason.STORAGE_FULL)", {"StorageFull"}),
        ("raise RunError(m, 'NoSuchReason')", set()),
        ("LOST = 'NoSuchReason'\nraise ConfigError(m, LOST)", {"NoSuchReason"}),
        ("class Narrow(ConfigError): ...\nraise Narrow(m, 'NoSuchReason')", {"NoSuchReason"}),
        ("def answers(place, refused): raise ConfigError(m, refused)\nanswers(p, 'NoSuchReason')", {"NoSuchReason"}),
        (
            "BOTH = ('Retried', 'Final')\n"
            "def answers(place, reason, refused): raise ConfigError(m, refused) if x else RunError(m, reason)\n"
            "answers(place, *BOTH)",
            {"Final"},
        ),
        ("say('end', state='Failed', title='FineTune')", set()),
    ],
)
def test_what_a_trainer_s_line_sets(code: str, found: set[str]) -> None:
    assert set_by_trainer({"m.py": ERRORS + code}) == found | {"BadConfig"}


WHERE = {
    FailureKind.TRANSIENT: ConditionType.RECONCILING,
    FailureKind.AMBIGUOUS: ConditionType.RECONCILING,
    FailureKind.BLOCKED: ConditionType.STALLED,
    FailureKind.PERMANENT: ConditionType.FAILED,
    FailureKind.GONE: ConditionType.FAILED,
}


@pytest.mark.parametrize(
    "error",
    [each for each in vars(backends_errors).values() if isinstance(each, type) and issubclass(each, UpstreamError)],
)
def test_a_failed_call_is_looked_up_under_the_condition_that_it_leads_to(error: type[UpstreamError]) -> None:
    assert ADVICE[Reason(error.default_reason)].where is WHERE[error.kind]


OLD = {
    "run": 1,
    "phase": "Running",
    "reason": "Resumed",
    "message": "as an earlier version said it",
    "conditions": [
        {"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}
        for kind, reason in (("Accepted", "Validating"), ("Running", "Resumed"), ("ArtifactsPublished", "Published"))
    ],
    "history": [{"run": 0, "phase": "Failed", "reason": "JobDeleted"}],
}


def test_a_status_with_reasons_that_are_no_more_is_read_and_put_right() -> None:
    read = FineTuneStatus.model_validate(OLD)
    assert [condition.reason for condition in read.conditions] == ["Validating", "Resumed", "Published"]
    shown = snapshot({"metadata": {"name": "sample"}, "spec": {}, "status": OLD})
    assert (shown.reason, shown.advice) == ("Resumed", "")
    status = planned(observe(job=job(status=RUNNING)), OLD).status
    assert status is not None
    assert status["reason"] == "PodsRunning"
    assert "ArtifactsPublished" not in [condition["type"] for condition in status["conditions"]]
