"""The table of FineTunes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_operator.api.names import QUEUE_LABEL
from finetune_operator.api.plain_text import one_line
from finetune_operator.cli.output.humanize import age

Object = Mapping[str, Any]

LONGEST_MODEL = 40
HEADERS = ("NAME", "PHASE", "PROGRESS", "LOSS", "MODEL", "BACKEND", "AGE")
WIDE_HEADERS = ("RUN", "ATTEMPTS", "QUEUE", "REASON")


def finetune_table(finetunes: Sequence[Object], now: datetime, *, wide: bool = False, namespaces: bool = False) -> str:
    """The rows in the order given, with the columns of the CRD."""
    headers = [*(("NAMESPACE",) if namespaces else ()), *HEADERS, *(WIDE_HEADERS if wide else ())]
    rows = [_row(each, now, wide=wide, namespaces=namespaces) for each in finetunes]
    return aligned([headers, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns three spaces apart, as kubectl aligns them; empty cells stay empty, and every row is one line."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(finetune: Object, now: datetime, *, wide: bool, namespaces: bool) -> list[str]:
    metadata, spec, status = finetune["metadata"], _object(finetune.get("spec")), _object(finetune.get("status"))
    progress = _object(status.get("progress"))
    row = [
        metadata["name"],
        str(status.get("phase") or ""),
        str(progress.get("summary") or ""),
        str(progress.get("loss") or ""),
        _shortened(str(spec.get("baseModel") or "")),
        backend_of(spec),
        age(metadata.get("creationTimestamp"), now),
    ]
    if namespaces:
        row.insert(0, metadata["namespace"])
    if wide:
        queue = (metadata.get("labels") or {}).get(QUEUE_LABEL) or ""
        row += [str(spec.get("run") or 1), str(status.get("attempts") or ""), queue, str(status.get("reason") or "")]
    return row


def backend_of(spec: Object) -> str:
    """The backend's member on the wire; empty where there is none."""
    return next(iter(_object(spec.get("backend"))), "")


def recipe_of(spec: Object) -> str:
    """The recipe's member on the wire; empty where there is none."""
    return next(iter(_object(spec.get("recipe"))), "")


def _object(value: object) -> Object:
    """One FineTune of another shape is no reason to show none."""
    return value if isinstance(value, Mapping) else {}


def _shortened(model: str) -> str:
    return model if len(model) <= LONGEST_MODEL else f"…{model[1 - LONGEST_MODEL :]}"
