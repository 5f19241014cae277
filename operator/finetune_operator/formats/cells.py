"""Cells of columnar tables as plain values: text, bytes, numbers, lists and objects, whatever the table calls them."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

UTC: Final = "+00:00"
"""As an offset: a name would need a database of time zones."""


class Unreadable(Exception):
    """The cell has no plain value; the text says why, and continues a sentence that names its column."""


def readable(kind: Any) -> Any:
    """The Arrow type to read a column as: times in microseconds and UTC, which need no further library.

    kind: the column's own `pyarrow.DataType`, which is returned itself where nothing has to change.
    """
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us" if kind.unit == "ns" else kind.unit, UTC if kind.tz else None)
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_duration(kind):
        return pa.duration("us" if kind.unit == "ns" else kind.unit)
    if types.is_struct(kind):
        return pa.struct([field.with_type(readable(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(readable(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(readable(kind.value_type)))
    return kind


def cells(column: Any) -> Any:
    """An Arrow array whose values are plain in the sense of `plain`.

    column: `pyarrow.Array`. A number of 32 bits becomes the shortest one that is read as the same: 0.1, and not
    0.10000000149011612.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_float32(kind):
        return column.cast(pa.string()).cast(pa.float64())
    wanted = readable(kind)
    return column if wanted == kind else column.cast(wanted, safe=False)


def plain(value: Any) -> Any:
    """The value of a cell as JSON has it, and bytes. Decimals, dates, times and UUIDs become text (ISO 8601).

    Raises Unreadable.
    """
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, UUID):
        return str(value)
    raise Unreadable(f"contains a value of type {type(value).__name__}, which is neither text, a number nor an image")
