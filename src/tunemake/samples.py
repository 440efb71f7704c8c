"""Reads, writes, counts and validates samples in a stream; of each, 8 bytes stay in memory."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from tunemake import schema
from tunemake.contracts import Sample
from tunemake.faults import Fault

_CHUNK = 1000
_text = json.JSONEncoder(ensure_ascii=False).encode
Roles = tuple[str, ...]
Bad = Callable[[str, list[Fault], object], None]


class Tally:
    """Counts samples as they pass: how many, how many unlike, whose turns."""

    def __init__(self) -> None:
        self.samples = 0
        self._keys = array("Q")
        self._roles: Counter[Roles] = Counter()

    def add(self, lines: Sequence[bytes], roles: Sequence[Roles]) -> None:
        """Count samples, given as their lines of JSON and the roles of their turns."""
        from xxhash import xxh3_64_intdigest

        self.samples += len(lines)
        self._keys.extend(map(xxh3_64_intdigest, lines))
        self._roles.update(roles)

    def counts(self) -> dict[str, Any]:
        """Give the counts that a record and a report show."""
        import numpy as np

        unique = len(np.unique(np.frombuffer(self._keys, np.uint64))) if self._keys else 0
        turns: Counter[str] = Counter()
        for roles, number in self._roles.items():
            for role in roles:
                turns[role] += number
        return {"samples": self.samples, "unique": unique, "turns": dict(sorted(turns.items()))}


def write_checked(path: Path, samples: Iterable[Sample], where: str, bad: Bad) -> Tally:
    """Write samples as JSON lines, each checked against the sample schema and for its order of roles.

    A wrong one is not written but given to `bad`, with its place: the number, counted from 1.
    """
    tally, waiting = Tally(), _passed(samples, where, bad)
    with path.open("wb") as file:
        while chunk := list(islice(waiting, _CHUNK)):
            lines, roles = zip(*chunk, strict=True)
            file.write(b"\n".join(lines) + b"\n")
            tally.add(lines, roles)
    return tally


def write_samples(path: Path, lines: Iterable[bytes]) -> Tally:
    """Write samples, given as lines of JSON, by the path's suffix: .jsonl as they are; .json as a list, indented by 4.

    The list is the form of the OpenAI-format files that people exchange.
    """
    from orjson import loads

    tally, waiting, written = Tally(), iter(lines), 0
    listed = path.suffix == ".json"
    with path.open("wb") as file:
        if listed:
            file.write(b"[")
        while chunk := list(islice(waiting, _CHUNK)):
            samples = [loads(line) for line in chunk]
            texts = [_indented(sample) for sample in samples] if listed else chunk
            opening = (b",\n" if written else b"\n") if listed else b""
            file.write(opening + (b",\n" if listed else b"\n").join(texts) + (b"" if listed else b"\n"))
            tally.add(chunk, [_roles(sample) for sample in samples])
            written += len(chunk)
        if listed:
            file.write(b"\n]\n" if written else b"]\n")
    return tally


def read_samples(path: Path) -> Iterator[Sample]:
    """Read samples written here, one by one."""
    if path.suffix == ".jsonl":
        yield from map(json.loads, read_lines(path))
        return
    import ijson

    with path.open("rb") as file:
        yield from ijson.items(file, "item")


def read_lines(path: Path) -> Iterator[bytes]:
    """Read the lines of a .jsonl file, without their ends."""
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\n")


def folded(text: str) -> str:
    """Fold case, punctuation and spaces away, so that prompts can be compared."""
    return re.sub(r"[\W_]+", "", text.casefold())


def prompts_of(samples: Iterable[Sample]) -> Iterator[str]:
    """Give the user's turns of the samples, folded."""
    return (folded(m["content"]) for sample in samples for m in sample["messages"] if m["role"] == "user")


def _passed(samples: Iterable[Sample], where: str, bad: Bad) -> Iterator[tuple[bytes, Roles]]:
    """Give the line of JSON and the roles of each sample that is as it must be, at once as it comes.

    A generator may fill one table again and again. jsonschema alone would take most of the time of the writing, and
    looking at each role in Python a quarter: so a sample is first taken to have the roles of the one before.
    """
    same: Roles = ("nobody's",)
    for number, sample in enumerate(samples, 1):
        line = _line(sample, same)
        if line is None:
            place, roles = f"{where}: sample {number}", _roles_if_in_order(sample)
            line = None if roles is None else _line(sample, roles)
            if roles is None or line is None:
                bad(place, _faults(sample, place), sample)
                continue
            same = roles
        yield line, same


def _line(sample: Sample, roles: Roles) -> bytes | None:
    """Give a sample's line if it is as it must be, with turns of these roles."""
    from orjson import dumps

    try:
        return dumps(sample) if _validator(roles).is_valid(sample) else None
    except (TypeError, ValueError):
        return None  # something that JSON does not have; _faults names it


def _roles_if_in_order(sample: Sample) -> Roles | None:
    try:
        roles = _roles(sample)
        return roles if _in_order(roles) else None
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


@lru_cache(maxsize=64)
def _validator(roles: Roles) -> Any:
    """Give the check of a sample whose turns have these roles."""
    import jsonschema_rs

    shape = deepcopy(schema.load_schema("sample.schema.json"))
    messages = shape["properties"]["messages"]
    turn = messages.pop("items")
    messages |= {"minItems": len(roles), "maxItems": len(roles)}
    messages["prefixItems"] = [
        {**turn, "properties": {**turn["properties"], "role": {"const": role}}} for role in roles
    ]
    return jsonschema_rs.validator_for(shape)


def _faults(sample: Any, place: str) -> list[Fault]:
    from orjson import dumps

    shape = schema.load_schema("sample.schema.json")
    if found := schema.schema_faults(sample, shape, place):
        return [fault for _, fault in found]
    try:
        dumps(sample)
    except TypeError as error:  # lone surrogates, and what is a dict or a str only by descent
        return [Fault(place, f"cannot be written as JSON: {error}")]
    roles = _roles(sample)
    if _in_order(roles):
        return []
    return [Fault(place, _wrong_order(roles), expected="system?, then user and assistant in turn")]


def _roles(sample: Sample) -> Roles:
    return tuple([message["role"] for message in sample["messages"]])


@cache
def _in_order(roles: Roles) -> bool:
    turns = roles[1:] if roles[0] == "system" else roles
    return len(turns) > 1 and turns == ("user", "assistant") * (len(turns) // 2)


def _wrong_order(roles: Roles) -> str:
    turns = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in turns:
        return "no assistant turn"
    if any(role != ("user", "assistant")[index % 2] for index, role in enumerate(turns)):
        return f"roles out of order: {', '.join(roles)}"
    return "the last turn is not the assistant's"


def _indented(sample: Sample) -> bytes:
    """Give a sample as json.dumps does with indent=4, an item of a list; that has no C, and takes ten times as long."""
    turns = ",\n".join(
        "            {\n"
        + ",\n".join(f"                {_text(key)}: {_text(value)}" for key, value in message.items())
        + "\n            }"
        for message in sample["messages"]
    )
    return f'    {{\n        "messages": [\n{turns}\n        ]\n    }}'.encode()
