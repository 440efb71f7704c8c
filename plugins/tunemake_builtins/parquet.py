"""Conversations of Parquet files: a column of messages, or columns of a question and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, Sample
from tunemake_builtins.formats import COLUMNS, ONE_FORMAT, Format
from tunemake_builtins.rows import CHOICE, FILES, files_of, read, samples_from, schema


class Parquet:
    """A dataset generator: the rows of Parquet files, in one of the formats that conversations come in."""

    summary = "conversations of Parquet files: messages, questions and answers, Alpaca or ShareGPT"
    version = "1"
    parameters: Mapping[str, Any] = {**schema(["files"], files=FILES, **COLUMNS, **CHOICE), **ONE_FORMAT}

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files."""
        return files_of(parameters["files"])

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations; numbers and dates in cells become text."""
        shape = Format(parameters)
        yield from samples_from(read(parameters, context, shape.columns), shape.sample, parameters, context)
        shape.tell(context)
