"""Questions and answers of tables: CSV, TSV or XLSX with named columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.conversations import BadRow, field, filled, is_empty, pair, system_prompt, text_of
from tunemake_builtins.rows import CHOICE, FILES, SYSTEM, TABLE, column, files_of, read, samples_from, schema

QUESTION: Mapping[str, Any] = {
    "type": ["string", "array"], "minLength": 1, "items": {"type": "string", "minLength": 1}, "minItems": 1,
    "default": "question",
    "description": "the column of the question, or a list of columns whose texts are joined by line ends",
}  # fmt: skip
ANSWER = column("the column of the answer", "answer")


class CsvQa:
    """A dataset generator: each row of a table is a question and its answer."""

    summary = "questions and answers of CSV, TSV or XLSX tables, in any encoding"
    version = "1"
    parameters: Mapping[str, Any] = schema(
        ["files"], files=FILES, question=QUESTION, answer=ANSWER, system=SYSTEM, **TABLE, **CHOICE
    )

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give a conversation for each row; one without a question or an answer is bad."""
        questions = QuestionAnswer(parameters)
        rows = read(parameters, context, questions.columns)
        return samples_from(rows, questions.sample, parameters, context)


class QuestionAnswer:
    """Makes samples of rows with columns of a question and of an answer."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        told = parameters.get("question", "question")
        self._questions = [told] if isinstance(told, str) else list(told)
        self._answer = parameters.get("answer", "answer")
        self._system = system_prompt(parameters)
        self.columns = [*self._questions, self._answer]

    def sample(self, row: Any) -> Sample:
        """Give a row's conversation; of several question columns, empty ones count for nothing. Raises BadRow."""
        cells = [(name, field(row, name)) for name in self._questions]
        parts = [text_of(cell, name) for name, cell in cells if not is_empty(cell)]
        if not parts:
            raise BadRow(f"{', '.join(self._questions)}: empty")
        answer = field(row, self._answer)
        return pair("\n".join(parts), filled("" if answer is None else answer, self._answer), self._system)
