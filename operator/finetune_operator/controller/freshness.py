"""Whether something may be created on the word of the cache, or the FineTune has to be read before. Pure.

A watch can be dead without a sign: its connection is open, and nothing comes. But one connection delivers in order, so
that whatever it brings shows that all before has been brought too. Where a create follows what has just been heard, as
nearly all do, nothing has to be read.
"""

from __future__ import annotations

from finetune_operator.controller.model import Create, Decision

OLD = 2.0
"""So many seconds after the last sign, the cache may have missed something."""
OLD_IN_LINE = 10.0
"""The same for what has waited for its turn since it was heard of: reads would make the line longer still."""


def needs_fresh_read(decision: Decision, *, age: float, first_look: bool) -> bool:
    """`age`: seconds since the cache was last known to be complete. `first_look`: see Observation.

    A status that is written first lands on the newest version only, and so shows that nothing has been missed.
    """
    if decision.status is not None or not any(isinstance(action, Create) for action in decision.actions):
        return False
    return age > (OLD_IN_LINE if first_look else OLD)
