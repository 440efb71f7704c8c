"""Which generator reads a data file, and by which parameters: found by trying those that ship on its first rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Generator, GeneratorError, Sample
from tunemake.faults import Fault, SampleError

_ROWS = 20  # of each kind, good and bad, are looked at
_FORMS = ("messages", "sharegpt", "alpaca")
# Names that columns of questions and answers commonly have.
_COLUMNS = (
    ("question", "answer"), ("prompt", "response"), ("ask", "answer"), ("input", "output"), ("query", "response"),
    ("prompt", "completion"), ("q", "a"), ("问题", "答案"), ("问题", "回答"), ("提问", "回答"),
)  # fmt: skip
_TABLES = {".csv", ".tsv", ".tab"}


@dataclass(frozen=True)
class DataForm:
    """The generator that reads a file. parameters: without `files`. questions: some that the file asks."""

    generator: str
    parameters: Mapping[str, Any]
    questions: tuple[str, ...]


class _EnoughError(Exception):
    """More bad rows than are worth looking at."""


def form_of(file: Path, generators: Mapping[str, Generator], columns: tuple[str | None, str | None]) -> DataForm:
    """Find the generator that gives most samples of a file's first rows.

    generators: those of _FORMS and csv_qa, by name. columns: of the question and of the answer, where they are known.
    Raises SampleError where none gives any.
    """
    best: tuple[int, DataForm] | None = None
    reasons: dict[str, str] = {}
    for name, parameters in _candidates(file, columns):
        questions, bad, told = _tried(generators[name], file, parameters)
        reasons.setdefault(name, told)  # the first is of the plainest parameters
        if len(questions) > bad and (best is None or len(questions) > best[0]):
            best = (len(questions), DataForm(name, parameters, tuple(dict.fromkeys(questions))[:2]))
    if best is None:
        reason = reasons["csv_qa" if _is_table(file) or len(reasons) == 1 else "messages"]
        step = "name its columns by --question and --answer, or write a generator: tunemake new dataset NAME"
        expected = "OpenAI's messages, ShareGPT's or Alpaca's form, or a question and an answer in each row"
        raise SampleError(Fault("--data", f"no samples could be read: {reason}", expected, next_step=step))
    return best[1]


def _candidates(file: Path, columns: tuple[str | None, str | None]) -> Iterator[tuple[str, dict[str, Any]]]:
    pairs = [(columns[0] or question, columns[1] or answer) for question, answer in _COLUMNS]
    tables: list[dict[str, str]] = [{}]
    if _is_table(file):
        tables = [e | d for e in ({}, {"encoding": "auto"}) for d in ({}, {"delimiter": ";"}, {"delimiter": "\t"})]
    for table in tables:
        if columns == (None, None):
            yield from ((name, table if name == "alpaca" else {}) for name in _FORMS)
        for question, answer in dict.fromkeys(pairs):
            yield "csv_qa", {"question": question, "answer": answer, **table}


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in _TABLES


def _tried(generator: Generator, file: Path, parameters: Mapping[str, Any]) -> tuple[list[str], int, str]:
    """Give questions of a file's first rows, how many rows are bad, and the reason of the first, or ""."""
    reasons: list[str] = []

    def bad(place: str, reason: str, row: object) -> None:  # noqa: ARG001 - the row is for those who keep it
        reasons.append(f"{place}: {reason}")
        if len(reasons) > _ROWS:
            raise _EnoughError

    questions: list[str] = []
    context = Context(root=file.parent, seed=0, bad=bad)
    try:
        samples = generator.samples({"files": file.name, **parameters}, context)
        questions.extend(_question(sample) for sample in islice(samples, _ROWS))  # kept up to where one raises
    except GeneratorError as error:
        reasons.append(str(error))
    except _EnoughError:
        pass  # the reasons tell
    return questions, len(reasons), reasons[0] if reasons else f"{file.name}: no rows"


def _question(sample: Sample) -> str:
    return next(turn["content"] for turn in sample["messages"] if turn["role"] == "user")
