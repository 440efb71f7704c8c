"""The rows of data files of every kind that is known, with the place of each, and samples made of them."""

from __future__ import annotations

import difflib
import glob
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tunemake.contracts import Context, GeneratorError, Sample
from tunemake_builtins.conversations import BadRow

_JSON, _TABLES, _SHEETS = {".json", ".jsonl", ".ndjson"}, {".csv", ".tsv", ".tab"}, {".xlsx", ".xlsm"}
_PARQUET = {".parquet"}
_KNOWN = _JSON | _TABLES | _SHEETS | _PARQUET

FILES: Mapping[str, Any] = {
    "type": ["string", "array"], "minLength": 1, "items": {"type": "string", "minLength": 1}, "minItems": 1,
    "description": "a file or a list of files, read in this order; * ? [] and ** stand for many, in order of name",
}  # fmt: skip
SYSTEM: Mapping[str, Any] = {"type": "string", "minLength": 1, "description": "a system message before every question"}
CHOICE: Mapping[str, Any] = {
    "limit": {"type": "integer", "minimum": 1, "description": "only the first so many samples"},
    "sample": {
        "type": "integer", "minimum": 1,
        "description": "so many of the samples, drawn by the seed and kept in their order",
    },
}  # fmt: skip
TABLE: Mapping[str, Any] = {
    "encoding": {
        "type": "string", "minLength": 1, "default": "utf-8",
        "description": 'encoding of a CSV or TSV file, such as "gb18030"; "auto": UTF-8, or what it most looks like',
    },
    "delimiter": {
        "type": "string", "pattern": '^[^"\\r\\n]$', "x-message": "expected one character",
        "description": "what stands between cells; left out: a comma, in .tsv a tab",
    },
    "sheet": {"type": "string", "minLength": 1, "description": "sheet of an XLSX file; left out: the first"},
}  # fmt: skip


class Row(NamedTuple):
    """One row, and where it stands, such as "qa.csv:17"."""

    place: str
    value: Any


def column(description: str, default: str) -> dict[str, Any]:
    """Give the schema of a parameter that names a column."""
    return {"type": "string", "minLength": 1, "default": default, "description": description}


def schema(required: list[str], **properties: Mapping[str, Any]) -> dict[str, Any]:
    """Give the schema of a generator's parameters."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def files_of(told: str | Iterable[str], root: Path | None = None) -> list[Path]:
    """Give the files that a parameter names, as it names them; patterns are looked up from root.

    root: the project's folder; None where it is the current one, as it is for whoever asks for a generator's inputs.
    Raises GeneratorError for a folder, and for a pattern that nothing matches.
    """
    found: list[Path] = []
    root = root or Path()
    for name in [told] if isinstance(told, str) else told:
        if (root / name).is_dir():
            kinds = sorted({file.suffix for file in (root / name).iterdir() if file.suffix.lower() in _KNOWN})
            many = " or ".join(f"{name.rstrip('/')}/*{kind}" for kind in kinds or [".jsonl"])
            raise GeneratorError(f"{name}: is a folder; write {many}")
        if not glob.has_magic(name) or (root / name).exists():
            found.append(Path(name))
            continue
        matches = sorted(glob.glob(name, root_dir=root, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [Path(match) for match in matches if (root / match).is_file()]
        if not files:
            raise GeneratorError(f"{name}: no file matches")
        found += files
    return found


def is_json(file: Path) -> bool:
    """Say whether a file is JSON, by its name; each row then has keys of its own."""
    return file.suffix.lower() in _JSON


def read(parameters: Mapping[str, Any], context: Context, columns: Iterable[str] | None = None) -> Iterator[Row]:
    """Give the rows of the files of `parameters`, each a mapping where its file is right.

    Takes files and what TABLE describes from parameters. columns: the only ones that are wanted; a table without one
    of them is an error. Raises GeneratorError where a file cannot be read; calls context.bad for rows that are none.
    """
    wanted = None if columns is None else list(columns)
    for file in files_of(parameters["files"], context.root):
        yield from rows_of(context.root / file, str(file), parameters, context, wanted)


def rows_of(
    path: Path, told: str, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None
) -> Iterator[Row]:
    """Give the rows of one file, as `read` does. told: the path for messages."""
    try:
        yield from _rows(path, told, parameters, context, wanted)
    except FileNotFoundError:
        raise GeneratorError(f"{told}: no such file") from None
    except OSError as error:
        raise GeneratorError(f"{told}: cannot be read: {error.strerror or error}") from None


def _rows(
    path: Path, told: str, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None
) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind in _JSON:
        from tunemake_builtins.json_rows import json_rows

        return json_rows(path, told, context)
    if kind in _TABLES:
        from tunemake_builtins.csv_rows import csv_rows

        return csv_rows(path, told, parameters, context, wanted)
    if kind in _SHEETS:
        from tunemake_builtins.xlsx_rows import xlsx_rows

        return xlsx_rows(path, told, parameters, context, wanted)
    if kind in _PARQUET:
        from tunemake_builtins.parquet_rows import parquet_rows

        return parquet_rows(path, told, context, wanted)
    known = ", ".join(sorted(_KNOWN))
    hint = "; save it as .xlsx" if kind in {".xls", ".ods"} else ""
    raise GeneratorError(f"{told}: unknown kind of file; expected a name that ends in {known}{hint}")


def samples_from(
    rows: Iterable[Row], made_of: Callable[[Any], Sample | None], parameters: Mapping[str, Any], context: Context
) -> Iterator[Sample]:
    """Give the samples that rows make, as far as `limit` and `sample` in parameters want them.

    made_of: a sample of a row's value, or None where it counts what it leaves out; it raises BadRow for a bad one.
    """
    made = islice(_made(rows, made_of, context), parameters.get("limit"))
    wanted = parameters.get("sample")
    return made if wanted is None else _drawn(made, wanted, context)


def _made(rows: Iterable[Row], made_of: Callable[[Any], Sample | None], context: Context) -> Iterator[Sample]:
    for place, value in rows:
        try:
            sample = made_of(value)
        except BadRow as reason:
            context.bad(place, str(reason), _kept(value))
        else:
            if sample is not None:
                yield sample


def _kept(value: Any) -> Any:
    """Give a bad row for those who keep it, or why it is not: one nested by the hundreds would break their JSON."""
    from orjson import dumps

    try:
        dumps(value, default=repr)
    except TypeError as error:
        if "recursion" in str(error).lower():
            return "nested too deeply to be kept"
    return value


def _drawn(samples: Iterable[Sample], wanted: int, context: Context) -> Iterator[Sample]:
    """Give so many of the samples, each as likely as any other; only these stay in memory."""
    chance = random.Random(context.seed)
    kept: list[tuple[int, Sample]] = []
    for number, sample in enumerate(samples):
        if number < wanted:
            kept.append((number, sample))
        elif (place := chance.randrange(number + 1)) < wanted:
            kept[place] = (number, sample)
    if len(kept) < wanted:
        context.say(f"{len(kept)} samples instead of {wanted}: there are no more")
    for _, sample in sorted(kept, key=lambda one: one[0]):
        yield sample


def guess(name: str, known: Iterable[Any]) -> str:
    """Give 'did you mean "x"?', or the known names, for the end of a message."""
    names = [str(one) for one in known]
    close = difflib.get_close_matches(name, names, n=1)
    return in_a_line(f'did you mean "{close[0]}"?' if close else "known: " + ", ".join(names))


def in_a_line(text: str) -> str:
    """Give a text, such as a column's name, as one line of a message."""
    return text.translate({ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"})
