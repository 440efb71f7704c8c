"""The first action of the chain as a dataset generator: half of the samples, a pause, then the other half."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from words import END

from tunemake.contracts import Context, Sample

PAUSE_SECONDS = 0.4


class Lines:
    """A sample for each line of a file that is no comment."""

    summary = "a sample a line"
    version = "1"
    parameters: Mapping[str, object] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"file": {"type": "string"}, "mark": {"type": "string"}},
    }

    def inputs(self, parameters: Mapping[str, str]) -> list[Path]:
        """Name the file."""
        return [Path(parameters["file"])]

    def samples(self, parameters: Mapping[str, str], context: Context) -> Iterator[Sample]:
        """Give the samples."""
        lines = (context.root / parameters["file"]).read_text("utf-8").splitlines()
        kept = [line for line in lines if not line.startswith("#")]
        with (context.root / "ran.log").open("a", encoding="utf-8") as log:
            log.write("b\n")
        for number, line in enumerate(kept):
            if number == len(kept) // 2:
                time.sleep(PAUSE_SECONDS)
            question = {"role": "user", "content": f"line {number}"}
            yield {"messages": [question, {"role": "assistant", "content": line.upper() + parameters["mark"] + END}]}
