"""The rows of CSV and TSV files, in any encoding, each with the line where it starts."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.encodings import encoding_of, undecodable
from tunemake_builtins.rows import Row, guess, in_a_line

_SEPARATOR = re.compile(r'\ufeff?"?sep=(.)"?[\r\n]*', re.IGNORECASE)  # a first line that Excel writes and reads
_LONGEST = 1 << 26  # characters of one row; beyond, a quote was never closed


def csv_rows(
    path: Path, told: str, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None
) -> Iterator[Row]:
    """Give the rows of a table as mappings from column to text; the first row names the columns.

    told: the path for messages. wanted: columns that must be there. Raises GeneratorError where reading cannot go on.
    """
    csv.field_size_limit(sys.maxsize)
    encoding = encoding_of(path, told, parameters.get("encoding", "utf-8"))
    asked = parameters.get("encoding", "utf-8")
    if asked == "auto" or codecs.lookup(asked).name != codecs.lookup(encoding.removesuffix("-sig")).name:
        context.say(f"{told}: read as {encoding}")
    delimiter = parameters.get("delimiter") or ("," if path.suffix.lower() == ".csv" else "\t")
    try:
        with path.open(encoding=encoding, newline="") as file:
            first = file.readline(_LONGEST)
            if said := _SEPARATOR.fullmatch(first):
                delimiter, first = parameters.get("delimiter") or said[1], "\n"  # a blank line: the count stays right
            yield from _Table(chain([first], file), told, delimiter, context).rows(wanted)
    except UnicodeError:
        raise undecodable(path, told, encoding) from None


class _Table:
    """A table being read; `start` is the line where the present row starts."""

    def __init__(self, lines: Iterable[str], told: str, delimiter: str, context: Context) -> None:
        self._told, self._delimiter, self._context = told, delimiter, context
        self._length = self._lines = self._quotes = 0  # of the present row, as far as it was read
        self._start = 1
        try:
            self._reader = csv.reader(self._guarded(lines), delimiter=delimiter, strict=True)
        except (TypeError, ValueError) as error:
            raise GeneratorError(f"delimiter: {delimiter!r} cannot stand between cells: {error}") from None

    def rows(self, wanted: Sequence[str] | None) -> Iterator[Row]:
        """Give the rows under the header; a blank line is none."""
        header: list[str] | None = None
        for cells in self._cells():
            if header is None:
                header = columns_of(cells, self._told, wanted, self._delimiter)
                continue
            place = f"{self._told}:{self._start}"
            if len(cells) != len(header):
                what = f"{len(cells)} cells, expected {len(header)} ({', '.join(header)})"
                self._context.bad(place, what, cells)
            elif any("\0" in cell for cell in cells):
                self._context.bad(place, "a NUL byte; is it a table of text?", cells)
            else:
                yield Row(place, dict(zip(header, cells, strict=True)))
        if header is None:
            raise GeneratorError(f"{self._told}: empty; expected a first row with the names of the columns")

    def _cells(self) -> Iterator[list[str]]:
        while True:
            self._start, self._length = self._reader.line_num + 1, 0
            self._lines = self._quotes = 0
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise self._unclosed() from None
                place, what = f"{self._told}:{self._start}", f"quotes that do not fit: {error}"
                if self._lines > 1 or self._quotes % 2:
                    # The row may go on, and what is left of it would pass for rows of its own.
                    step = "mend it there (within quotes, a quote is written twice)"
                    raise GeneratorError(f"{place}: {what}; where this row ends cannot be told: {step}") from None
                self._context.bad(place, what, None)
                continue
            if cells:
                yield cells

    def _guarded(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._lines += 1
            self._quotes += line.count('"')
            self._length += len(line)
            if self._length > _LONGEST:
                raise self._unclosed()
            yield line

    def _unclosed(self) -> GeneratorError:
        return GeneratorError(f"{self._told}:{self._start}: a quote opened in this row is never closed")


def columns_of(
    cells: Sequence[str], told: str, wanted: Sequence[str] | None, delimiter: str | None = None
) -> list[str]:
    """Give the columns that a header names; raises GeneratorError where a wanted one is missing or is there twice."""
    header = [cell.lstrip("\ufeff").strip() for cell in cells]
    for name in header if wanted is None else wanted:
        if name and header.count(name) > 1:
            raise GeneratorError(in_a_line(f'{told}: two columns are named "{name}"; rename one'))
        if name not in header:
            other = next((mark for mark in ",;\t|" if mark != delimiter and mark in header[0]), None)
            odd = len(header) == 1 and delimiter is not None and other
            hint = f'set delimiter = "{other}"' if odd else guess(name, header)
            raise GeneratorError(in_a_line(f'{told}: no column "{name}"; {hint}'))
    return header
