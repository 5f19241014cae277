"""A provider that sends the credentials back in whatever it answers: no error that the backends raise shows them."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from finetune_operator.backends.errors import UpstreamError, failure_of
from tests.upstream.fakes.faults import Kind
from tests.upstream.life import CASES
from tests.upstream.test_odd_answers import STEPS_OF, living, whole_life

pytestmark = pytest.mark.usefixtures("without_pauses")
STATUSES = (400, 401, 402, 403, 404, 409, 422, 429, 500)


@pytest.mark.parametrize("name", sorted(CASES))
async def test_no_error_shows_a_credential(name: str) -> None:
    async with living(name) as (fake, run):
        await whole_life(run)
        finished = run.run
        credentials = [*run.credentials.values(), *run.provider.headers(run.credentials).values()]
        secrets = {value.rpartition(" ")[2] for value in credentials}
        echo = {"error": {"message": " ".join(secrets), "detail": sorted(secrets)}, "message": " ".join(secrets)}
        shown, errors = "", 0
        for route in dict.fromkeys(call.route for call in fake.calls):
            faults: list[dict[str, Any]] = [
                {"kind": Kind.STATUS, "status": status, "body": echo} for status in STATUSES
            ]
            faults += [{"kind": Kind.REDIRECT, "location": f"http://127.0.0.1:9/{' '.join(secrets)}"}]
            for number, fault in enumerate(faults):
                fake.faults.clear()
                fake.fault(**fault, route=route, times=1000)
                run.run = finished
                steps = STEPS_OF.get(route, ("prepare", "create", "equip"))
                try:
                    await run.call(steps[number % len(steps)])
                except UpstreamError as error:
                    errors += 1
                    shown += "".join(traceback.format_exception(error)) + repr(error) + repr(failure_of(error))
        assert errors > len(STATUSES)
        assert "redacted" in shown
        for secret in secrets:
            assert secret not in shown
