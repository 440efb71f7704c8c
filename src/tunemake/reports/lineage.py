"""What a model was made from: the artifacts and what each took of which, by the digests of their records; the log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.artifacts import read_record

_SHORT = 12  # letters of a digest that a person compares
MOST_LINES = 60  # of the log that a page shows


@dataclass(frozen=True)
class Node:
    """An artifact. role: what it is to whom it was made for. takes: roles that it has files of. size: bytes of all."""

    role: str
    stage: str
    digest: str
    started: str
    seconds: float
    size: int
    takes: tuple[str, ...]


def lineage(inputs: Mapping[str, Path]) -> list[Node]:
    """Give the artifacts in inputs, by role, each after those that it was made from.

    Who took a file of whom is told by the digests in the records, which no link can falsify.
    """
    records = {role: record for role, folder in inputs.items() if (record := read_record(folder)) is not None}
    makers: dict[str, list[str]] = {}
    for role, record in records.items():
        for output in record["outputs"].values():
            makers.setdefault(output["sha256"], []).append(role)
    takes = {role: _takes(role, record, makers, records) for role, record in records.items()}
    return [_node(role, records[role], takes[role]) for role in _ordered(takes)]


def _takes(
    role: str, record: Mapping[str, Any], makers: Mapping[str, Sequence[str]], records: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name, digest in record["inputs"].items():
        as_role, _, file = name.partition("/")
        # Equal files may be of several makers: the one of that role, or else those that have it by that name.
        of = [maker for maker in makers.get(digest, ()) if maker != role and file in records[maker]["outputs"]]
        for maker in [as_role] if as_role in of else of:
            found[maker] = None
    return tuple(found)


def _ordered(takes: Mapping[str, Sequence[str]]) -> list[str]:
    """Give roles such that each follows those it takes from."""
    done: dict[str, None] = {}

    def visit(role: str, path: tuple[str, ...]) -> None:
        for other in takes[role]:
            if other not in path:
                visit(other, (*path, other))
        done[role] = None

    for role in takes:
        if role not in done:
            visit(role, (role,))
    return list(done)


def _node(role: str, record: Mapping[str, Any], takes: tuple[str, ...]) -> Node:
    size = sum(output["size"] for output in record["outputs"].values())
    stage = str(record.get("stage", role))
    told = role if role.startswith(f"{stage}:") else stage
    started, seconds = str(record.get("started", "")), float(record.get("seconds", 0))
    return Node(role, told, record["fingerprint"][:_SHORT], started, seconds, size, takes)


def history(log: Path, nodes: Iterable[Node]) -> tuple[list[dict[str, Any]], int]:
    """Give the last lines of a project's log, newest first, and how many earlier ones there are.

    A line has `here` where what it tells of is among the nodes. A line that is cut short, by a kill, is none.
    """
    shown = {(node.stage.partition(":")[0], node.digest) for node in nodes}
    lines = []
    for text in log.read_text("utf-8").splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        stage, _, digest = line["artifact"].rpartition("-")
        lines.append({**line, "digest": digest[:_SHORT], "here": (stage, digest[:_SHORT]) in shown})
    return lines[: -MOST_LINES - 1 : -1], max(0, len(lines) - MOST_LINES)
