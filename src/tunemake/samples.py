"""Reads, writes, counts and validates samples."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunemake import schema
from tunemake.contracts import Sample
from tunemake.faults import Fault, SampleError


def validated(samples: Iterable[Sample], where: str) -> Iterator[Sample]:
    """Pass samples through, each checked against the sample schema and for its order of roles.

    Raises SampleError at the first wrong sample, naming its number, counted from 1.
    """
    from jsonschema import Draft202012Validator

    shape = schema.load_schema("sample.schema.json")
    validator = Draft202012Validator(shape)
    for number, sample in enumerate(samples, 1):
        if not validator.is_valid(sample):
            place = f"{where}: sample {number}"
            raise SampleError(fault for _, fault in schema.schema_faults(sample, shape, place))
        wrong = _wrong_roles([message["role"] for message in sample["messages"]])
        if wrong:
            raise SampleError(Fault(f"{where}: sample {number}", wrong, expected="system?, then user and assistant"))
        yield sample


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as a JSON list, UTF-8, indented by 4: the form of the OpenAI-format files people exchange."""
    path.write_text(json.dumps(samples, ensure_ascii=False, indent=4) + "\n", "utf-8")


def read_samples(path: Path) -> list[Sample]:
    """Read samples written by write_samples."""
    samples: list[Sample] = json.loads(path.read_text("utf-8"))
    return samples


def count_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """Give the counts that a record and a report show."""
    roles = Counter(message["role"] for sample in samples for message in sample["messages"])
    unique = len({json.dumps(sample, sort_keys=True) for sample in samples})
    return {"samples": len(samples), "unique": unique, "turns": dict(sorted(roles.items()))}


def folded(text: str) -> str:
    """Fold case, punctuation and spaces away, so that prompts can be compared."""
    return re.sub(r"[\W_]+", "", text.casefold())


def prompts_of(samples: Iterable[Sample]) -> set[str]:
    """Give the user's turns of the samples, folded."""
    return {folded(m["content"]) for sample in samples for m in sample["messages"] if m["role"] == "user"}


def _wrong_roles(roles: list[str]) -> str | None:
    turns = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in turns:
        return "no assistant turn"
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(turns)):
        return f"roles out of order: {', '.join(roles)}"
    return "the last turn is not the assistant's" if turns[-1] != "assistant" else None
