"""What a build would do now, and why; decided by the same code as the build, and telling what it took last time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tunemake.artifacts import read_record
from tunemake.building import Builder
from tunemake.faults import InputError
from tunemake.transfers import Tell
from tunemake.withholding import needed

Verdict = Literal["runs", "may run", "fetched", "found made", "fresh"]


# What comes out of them is known when they have run.
_UNKNOWN = frozenset({"runs", "may run", "fetched"})


def _silent(_: Mapping[str, Any]) -> None:
    """Take a line and show nothing."""


@dataclass(frozen=True)
class Step:
    """A stage in a plan.

    verdict: "runs"; "may run", if what it needs comes out changed; "fetched", the shared store offers it; "found made",
    the store holds it and only the link moves; "fresh". reasons: why, in the user's words. after: the stages whose
    result it waits for. seconds: what it took last time, or None.
    """

    stage: str
    verdict: Verdict
    reasons: list[str]
    after: list[str]
    seconds: float | None


def plan(builder: Builder, wanted: Iterable[str] = (), tell: Tell = _silent) -> list[Step]:
    """Give the steps of a build of the wanted stages and all that they need, in order; of everything by default.

    tell: is given a line where the shared store cannot be asked.
    """
    asked = list(wanted) or list(builder.stages)
    chosen = {one for name in asked for one in needed(builder.stages, name)}
    steps: dict[str, Step] = {}
    moved: dict[str, Path] = {}
    for name, stage in builder.stages.items():
        if name in chosen:
            above = [steps[need.stage] for need in stage.needs.values() if need.files]
            after = [step.stage for step in above if step.verdict in _UNKNOWN]
            steps[name] = _step(builder, name, after, moved, tell)
    return list(steps.values())


def as_text(steps: Iterable[Step]) -> str:
    """Write a plan as a tree: each stage with its reasons under it, and a line that sums up."""
    lines: list[str] = []
    told = list(steps)
    for step in told:
        lines.append(f"{step.stage}: {_headline(step)}")
        for number, reason in enumerate(step.reasons, 1):
            lines.append(f"  {'└─' if number == len(step.reasons) else '├─'} {reason}")
    counts = {verdict: sum(step.verdict == verdict for step in told) for verdict in ("runs", "may run")}
    costs = [step.seconds for step in told if step.verdict in counts]
    known = [seconds for seconds in costs if seconds is not None]
    if not any(counts.values()):
        return "\n".join([*lines, "nothing to do"])
    most = f", at most {duration(sum(known))} by last time" if len(known) == len(costs) else ""
    return "\n".join([*lines, f"{counts['runs']} to run, {counts['may run']} may have to{most}"])


def as_json(steps: Iterable[Step]) -> str:
    """Write a plan for machines: a list of the steps' fields."""
    return json.dumps([asdict(step) for step in steps], ensure_ascii=False, indent=1)


def duration(seconds: float) -> str:
    """Write seconds as a person would say them."""
    if seconds < 120:  # noqa: PLR2004 - rounded to minutes, a minute and a half would be off by a third
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004 - two hours


def _headline(step: Step) -> str:
    last = f" ({duration(step.seconds)} last time)" if step.seconds is not None else ""
    if step.verdict == "runs":
        return f"will run{last}"
    if step.verdict == "may run":
        return f"may run, if {' or '.join(step.after)} comes out changed{last}"
    if step.verdict == "fetched":
        return "made elsewhere; will be fetched from the shared store"
    if step.verdict == "found made":
        return "made before; its link moves to it"
    return "up to date"


def _step(builder: Builder, name: str, after: list[str], moved: dict[str, Path], tell: Tell) -> Step:
    """Say what becomes of a stage; where only its link moves, note in moved to what, for those that read it."""
    stage = builder.stages[name]
    record = builder.store.record(stage.link)
    seconds = None if record is None else float(record["seconds"])
    try:
        state = builder.state(name, moved)
    except InputError as error:
        if after and record is None:
            return Step(name, "runs", ["not built yet"], after, seconds)
        return Step(name, "runs", [str(fault) for fault in error.faults], after, seconds)
    if after:
        own = [reason for reason in state.reasons if not _of_input(reason, stage.needs)]
        return Step(name, "runs" if own else "may run", own, after, seconds)
    if state.fresh:
        return Step(name, "fresh", [], [], seconds)
    told = [_enriched(builder, name, reason) for reason in state.reasons]
    if state.in_store:
        moved[name] = builder.store.entry(state.decides)
        return Step(name, "found made", told, [], seconds)
    offered = builder.remote is not None and builder.remote.offers(state.decides, tell)
    return Step(name, "fetched" if offered else "runs", told, [], seconds)


def _of_input(reason: str, needs: Mapping[str, Any]) -> bool:
    """Say whether a reason is no more than an input that will be made anew anyway."""
    return reason.endswith((" changed", " is new", " is gone")) and reason.partition("/")[0] in needs


def _enriched(builder: Builder, name: str, reason: str) -> str:
    """Say of training data that changed how many samples there were and are."""
    file, _, verb = reason.rpartition(" ")
    role, _, inside = file.partition("/")
    stage = builder.stages[name]
    if verb != "changed" or role not in stage.needs or not inside.endswith((".json", ".jsonl")):
        return reason
    record = builder.store.record(stage.link)
    before = None if record is None else _samples(builder, inside, record["inputs"].get(file))
    now = _count(builder.store.record(builder.stages[stage.needs[role].stage].link), inside)
    return f"{file}: {before} → {now} samples" if before and now and before != now else reason


def _samples(builder: Builder, inside: str, digest: str | None) -> int | None:
    """Find how many samples a file had that an earlier artifact of the store still tells of."""
    for folder in sorted(builder.store.entries.glob("data*-*")):
        record = read_record(folder)
        if record and record["outputs"].get(inside, {}).get("sha256") == digest:
            return _count(record, inside)
    return None


def _count(record: Mapping[str, Any] | None, file: str) -> int | None:
    facts = (record or {}).get("facts", {})
    part = facts.get(Path(file).stem, facts)
    return part.get("samples") if isinstance(part, Mapping) else None
