"""The rows of Parquet files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.rows import Row, guess

_BATCH = 1000
_BUFFER = 1 << 20  # bytes read at once of each column


def parquet_rows(path: Path, told: str, context: Context, wanted: Sequence[str] | None) -> Iterator[Row]:
    """Give the rows as mappings from column to value; only wanted columns are read.

    told: the path for messages. Raises GeneratorError where reading cannot go on.
    """
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            names = file.schema_arrow.names
            for name in wanted or ():
                if name not in names:
                    raise GeneratorError(f'{told}: no column "{name}"; {guess(name, names)}')
            for batch in file.iter_batches(_BATCH, columns=None if wanted is None else list(dict.fromkeys(wanted))):
                yield from _of_batch(batch, told, number, context)
                number += batch.num_rows
    except pa.ArrowException as error:
        after = f" after row {number}" if number else ""
        raise GeneratorError(f"{told}: cannot be read as Parquet{after}: {_first_line(error)}") from error


def _of_batch(batch: Any, told: str, before: int, context: Context) -> Iterator[Row]:
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, dates that Python has not: find the rows
        for index in range(batch.num_rows):
            yield from _of_row(batch.slice(index, 1), f"{told}: row {before + index + 1}", context)
        return
    for number, value in enumerate(values, before + 1):
        yield Row(f"{told}: row {number}", value)


def _of_row(row: Any, place: str, context: Context) -> Iterator[Row]:
    try:
        (value,) = row.to_pylist()
    except (ValueError, OverflowError) as error:
        context.bad(place, f"a value that cannot be read: {_first_line(error)}", None)
    else:
        yield Row(place, value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
