"""The rows of XLSX files, each with its number in the sheet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.conversations import cell_text
from tunemake_builtins.csv_rows import columns_of
from tunemake_builtins.rows import Row, guess

_FORMULA_ERRORS = {"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"}


def xlsx_rows(
    path: Path, told: str, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None
) -> Iterator[Row]:
    """Give the rows of a sheet as mappings from column to text; the first row that is not blank names the columns.

    told: the path for messages. wanted: columns that must be there. Numbers and dates become text. Raises
    GeneratorError where reading cannot go on.
    """
    header: list[str] | None = None
    for number, cells in enumerate(_cells(path, told, parameters.get("sheet")), 1):
        while cells and cells[-1] is None:
            cells.pop()
        if not cells:
            continue
        texts = ["" if cell is None else str(cell) for cell in map(cell_text, cells)]
        if header is None:
            header = columns_of(texts, told, wanted)
        elif len(texts) > len(header):
            what = f"{len(texts)} cells, expected {len(header)} ({', '.join(header)})"
            context.bad(f"{told}: row {number}", what, texts)
        elif faulty := next((text for text in texts if text in _FORMULA_ERRORS), None):
            context.bad(f"{told}: row {number}", f"{faulty}, a formula's error", texts)
        else:
            texts += [""] * (len(header) - len(texts))
            yield Row(f"{told}: row {number}", dict(zip(header, texts, strict=True)))
    if header is None:
        raise GeneratorError(f"{told}: empty; expected a first row with the names of the columns")


def _cells(path: Path, told: str, sheet: str | None) -> Iterator[list[Any]]:
    """Give the values of the rows; raises GeneratorError where the file is no workbook."""
    with path.open("rb") as file:
        try:
            for row in _sheet(file, told, sheet).iter_rows(values_only=True):
                yield list(row)
        except GeneratorError:
            raise
        except Exception as error:  # a broken workbook fails anywhere in zipfile, XML and openpyxl
            raise GeneratorError(f"{told}: cannot be read as XLSX: {type(error).__name__}: {error}") from error


def _sheet(file: BinaryIO, told: str, name: str | None) -> Any:
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of a workbook, such as drop-down lists, that no row needs
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    if name is not None and name not in book.sheetnames:
        raise GeneratorError(f'{told}: no sheet "{name}"; {guess(name, book.sheetnames)}')
    if not book.worksheets:
        raise GeneratorError(f"{told}: no sheet of cells")
    found = book[name] if name else book.worksheets[0]
    found.reset_dimensions()  # what a file says of its size can be too small, and would cut rows
    return found
