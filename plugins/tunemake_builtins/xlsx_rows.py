"""The rows of XLSX files, each with its number in the sheet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.conversations import cell_text
from tunemake_builtins.csv_rows import columns_of
from tunemake_builtins.rows import Row, guess

_FORMULA_ERRORS = {"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"}
_NO_RESULT = "a formula whose result the file does not hold; open and save it in Excel"


def xlsx_rows(
    path: Path, told: str, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None
) -> Iterator[Row]:
    """Give the rows of a sheet as mappings from column to text; the first row that is not blank names the columns.

    told: the path for messages. wanted: columns that must be there. Numbers and dates become text. Raises
    GeneratorError where reading cannot go on.
    """
    header: list[str] | None = None
    for number, (cells, without) in enumerate(_cells(path, told, parameters.get("sheet")), 1):
        if without and header is None:
            raise GeneratorError(f"{told}: row {number}: {without}: {_NO_RESULT}")
        while cells and cells[-1] is None:
            cells.pop()
        if not cells and not without:
            continue
        texts = ["" if cell is None else str(cell) for cell in map(cell_text, cells)]
        if header is None:
            header = columns_of(texts, told, wanted)
        elif without:
            context.bad(f"{told}: row {number}", f"{without}: {_NO_RESULT}", texts)
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


def _cells(path: Path, told: str, sheet: str | None) -> Iterator[tuple[list[Any], str]]:
    """Give the values of each row, and the name of a cell whose formula has no result in the file, or "".

    Raises GeneratorError where the file is no workbook.
    """
    with path.open("rb") as file, path.open("rb") as again:
        try:
            formulas = _Formulas(again, told, sheet)
            for number, row in enumerate(_sheet(file, told, sheet).iter_rows()):
                yield [_value(cell) for cell in row], formulas.without_result(number, row)
        except GeneratorError:
            raise
        except Exception as error:  # a broken workbook fails anywhere in zipfile, XML and openpyxl
            raise GeneratorError(f"{told}: cannot be read as XLSX: {type(error).__name__}: {error}") from error


def _value(cell: Any) -> Any:
    from openpyxl.utils.escape import unescape

    return unescape(cell.value) if isinstance(cell.value, str) else cell.value


class _Formulas:
    """The sheet once more, with its formulas: opened only where a cell is written that holds no value."""

    def __init__(self, file: BinaryIO, told: str, sheet: str | None) -> None:
        self._file, self._told, self._sheet = file, told, sheet
        self._rows: Iterator[tuple[Any, ...]] | None = None
        self._at = 0

    def without_result(self, number: int, row: Sequence[Any]) -> str:
        """Name the first cell of a row that holds a formula and no result; rows are asked for in order."""
        # A result that is an empty text has the type "str"; where no cell is written there is no column.
        columns = [at for at, cell in enumerate(row) if _is_bare(cell)]
        if not columns:
            return ""
        if self._rows is None:
            self._rows = _sheet(self._file, self._told, self._sheet, formulas=True).iter_rows()
        written = next(islice(self._rows, number - self._at, None))
        self._at = number + 1
        return next((written[at].coordinate for at in columns if written[at].data_type == "f"), "")


def _is_bare(cell: Any) -> bool:
    return cell.value is None and cell.data_type == "n" and hasattr(cell, "column")


def _sheet(file: BinaryIO, told: str, name: str | None, *, formulas: bool = False) -> Any:
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of a workbook, such as drop-down lists, that no row needs
        book = openpyxl.load_workbook(file, read_only=True, data_only=not formulas)
    if name is not None and name not in book.sheetnames:
        raise GeneratorError(f'{told}: no sheet "{name}"; {guess(name, book.sheetnames)}')
    if not book.worksheets:
        raise GeneratorError(f"{told}: no sheet of cells")
    found = book[name] if name else book.worksheets[0]
    found.reset_dimensions()  # what a file says of its size can be too small, and would cut rows
    return found
