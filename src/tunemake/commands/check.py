"""tunemake check and doit check: all that can be wrong before a training, told in seconds; for people or machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import Command

from tunemake.checking import Checked, check_builder
from tunemake.data_told import data_lines
from tunemake.faults import InputError, TunemakeError
from tunemake.findings import Finding, errors, in_order, verdict
from tunemake.loading import load_builder
from tunemake.machine import size
from tunemake.progress import Watch

FORMAT = 1


def check(root: Path, *, machine: bool) -> tuple[str, int]:
    """Check the project in a folder; give what to print and the exit code: 0, or 2 where there is an error.

    machine: as JSON, whose keys stay what they are.
    """
    try:
        found = check_builder(load_builder(root), Watch)
    except InputError as error:
        found = [Checked("", findings=errors("project", error.faults))]
    findings = in_order(dict.fromkeys(finding for checked in found for finding in checked.findings))
    failed = any(finding.severity == "error" for finding in findings)
    text = _json(found, findings) if machine else "\n".join(_text(found, findings))
    return text, InputError.exit_code if failed else 0


def _json(found: Sequence[Checked], findings: Sequence[Finding]) -> str:
    worst = findings[0].severity if findings else "note"
    told = {
        "format": FORMAT, "verdict": {"error": "fails", "warning": "warnings", "note": "fine"}[worst],
        "findings": [finding.as_json() for finding in findings],
        "variants": {checked.variant: _variant(checked) for checked in found if checked.variant},
    }  # fmt: skip
    return json.dumps(told, ensure_ascii=False, indent=1)


def _variant(checked: Checked) -> dict[str, Any]:
    data, length = checked.data, checked.length
    return {
        "base": checked.base, "datasets": data.datasets, "held_out": data.held_out,
        "data": None if data.figures is None else data.figures.as_json(),
        "training": None if length is None else length.as_json(), "memory": checked.memory,
        "disk": {"writes": checked.writes, "free": checked.free},
    }  # fmt: skip


def _text(found: Sequence[Checked], findings: Sequence[Finding]) -> Iterator[str]:
    sections = {checked.variant: list(_section(checked)) for checked in found if checked.variant}
    shared = [line for line in next(iter(sections.values()), []) if all(line in lines for lines in sections.values())]
    yield from shared
    own: dict[tuple[str, ...], list[str]] = {}
    for variant, lines in sections.items():
        own.setdefault(tuple(line for line in lines if line not in shared), []).append(variant)
    for rest, variants in own.items():
        if rest:
            yield f"\n{', '.join(variants)}:"
            yield from rest
    if sections:
        yield ""
    yield from map(str, findings)
    if findings:
        yield ""
    yield from _verdicts(found)
    yield verdict(findings)


def _verdicts(found: Sequence[Checked]) -> Iterator[str]:
    """Give what the data of the variants will lead to, once where it is the same."""
    told: dict[str, list[str]] = {}
    for checked in found:
        if checked.data.figures is not None:
            told.setdefault(str(checked.data.figures.verdict), []).append(checked.variant)
    for text, variants in told.items():
        yield text if len(told) == 1 else f"{', '.join(variants)}: {text}"
        yield ""


def _section(checked: Checked) -> Iterator[str]:
    if checked.base is not None:
        base = checked.base
        yield f"base      {base['source']}: {base['architecture']}, {base['parameters']:,} parameters"
    for name, counts in checked.data.datasets.items():
        yield f"dataset   {name}: " + ("not made" if counts is None else _counts(counts))
    if checked.data.figures is not None:
        yield from data_lines(checked.data.figures)
    if checked.length is not None:
        length = checked.length
        told = f"{length.steps:,} steps, {length.iterations:,} iterations"
        devices = "on one device" if length.devices == 1 else f"on {length.devices} devices"
        full = "" if length.filled is None else f" (packs, {length.filled:.1%} full)"
        yield f"training  {told}: {length.rows:,} rows{full} × {length.epochs:g} epochs, {devices}"
    if checked.memory is not None:
        yield f"memory    {checked.memory}"
    if checked.writes:
        parts = ", ".join(f"{name} {size(part)}" for name, part in checked.writes.items() if part)
        yield f"disk      about {size(sum(checked.writes.values()))} to be written ({parts}); {size(checked.free)} free"


def _counts(counts: dict[str, int]) -> str:
    left = f", {counts['rejected']:,} rows left out" if counts["rejected"] else ""
    return f"{counts['samples']:,} samples, {counts['unique']:,} unique{left}"


class Check(Command):  # type: ignore[misc]
    """doit's command `check`."""

    name = "check"
    doc_purpose = "tell all that can be wrong before the training; makes light datasets"
    doc_usage = ""
    doc_description = None
    cmd_options = ({"name": "json", "long": "json", "type": bool, "default": False, "help": "for machines"},)

    def execute(self, opt_values: Any, pos_args: Any) -> int:  # noqa: ARG002 - doit's
        """Print what was found."""
        try:
            text, code = check(Path.cwd(), machine=opt_values["json"])
        except TunemakeError as error:  # interrupted, that is
            text, code = str(error), error.exit_code
        print(text)  # noqa: T201 - a doit command prints
        return code
