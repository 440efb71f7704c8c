"""Questions about opening hours, of a file with a day and its hours on each line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.contracts import Context, GeneratorError, Sample


class OpeningHours:
    """A dataset generator: when a place is open."""

    summary = "questions about opening hours, from a file of lines such as: Monday 8-12"
    version = "1"
    parameters: Mapping[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "minLength": 1, "description": "a text file, UTF-8"},
            "place": {"type": "string", "default": "the clinic", "description": "what is open"},
        },
    }

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the file."""
        return [Path(parameters["file"])]

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give a conversation for each line; one without hours is bad."""
        file = parameters["file"]
        try:
            lines = (context.root / file).read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise GeneratorError(f"{file}: not UTF-8 at byte {error.start}") from error
        for number, line in enumerate(lines, 1):
            day, _, hours = line.partition(" ")
            if not hours:
                context.bad(f"{file}:{number}", "no hours", line)
                continue
            yield {
                "messages": [
                    {"role": "user", "content": f"When is {parameters['place']} open on {day}?"},
                    {"role": "assistant", "content": f"On {day} {parameters['place']} is open {hours}."},
                ]
            }
