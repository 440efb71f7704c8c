"""What a check finds: errors, warnings and notes, each a fault with a code of its own, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tunemake.faults import Fault

Severity = Literal["error", "warning", "note"]
_SHOWN = 40  # characters of a text that is quoted
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing found.

    severity: error where the build would fail or train nothing; warning where it would do what is hardly meant; note
    for the rest, what could not be checked among it. code: names the kind of finding for machines and never changes.
    """

    severity: Severity
    code: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.severity}: {self.fault}"

    def as_json(self) -> dict[str, Any]:
        """Give severity, code and the fault's fields in one dict."""
        return {"severity": self.severity, "code": self.code, **asdict(self.fault)}


def errors(code: str, faults: Iterable[Fault]) -> list[Finding]:
    """Give faults as errors of one code."""
    return [Finding("error", code, fault) for fault in faults]


def unchecked(where: str, why: str, next_step: str | None = None) -> Finding:
    """Give the note that something was not looked at."""
    return Finding("note", "unchecked", Fault(where, f"unchecked: {why}", next_step=next_step))


def excerpt(text: str) -> str:
    """Give the beginning of a text on one line, as a finding quotes it."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """Give errors first, then warnings, then notes, each in the order in which they came."""
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def verdict(found: Sequence[Finding]) -> str:
    """Sum up in one line."""
    counts = {kind: sum(finding.severity == kind for finding in found) for kind in _ORDER}
    told = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items() if n)
    if counts["error"]:
        return f"{told}: the build would fail, or train nothing"
    return f"{told}: ready to build" if told else "nothing found: ready to build"
