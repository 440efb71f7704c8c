"""A gate that fails: what is told of it, and the gates of other variants, which a build would not come to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunemake.faults import TunemakeError
from tunemake.gate import lines_of
from tunemake.withholding import verdict

if TYPE_CHECKING:  # a build with nothing to do asks a gate too, and needs none of it
    from tunemake.building import Builder

NO_GATE = "TUNEMAKE_NO_GATE"  # where it is set, a model that fails its gate ends no build
STEP = "train otherwise, or tunemake build --no-gate; the model is kept, and not sent to a shared store"


def failure(root: Path, name: str, link: str) -> list[str] | None:
    """Say what did not pass a gate; None where all did, or nobody asks: then stderr tells it.

    root: the project's folder. name, link: the gate's.
    """
    told = verdict(root / link)
    if told is not None and told["passed"]:
        if missed := lines_of(told, name):  # bounds that are not required
            sys.stderr.write("\n".join(missed) + "\n")
        return None
    from tunemake.project import machine_environment

    lines = [f"{name}: its verdict cannot be read"] if told is None else lines_of(told, name)
    if machine_environment().get(NO_GATE):
        sys.stderr.write("\n".join([*lines, f"{name} did not pass, and --no-gate was given"]) + "\n")
        return None
    return lines


def judged(builder: Builder, name: str) -> str | None:
    """Say how a build ends at a gate: None where the model passed, else what did not, and the next step.

    doit ends at the first gate that fails. So what other variants have built is judged here too: each is told, and
    sent to a shared store where it passes.
    """
    lines = failure(builder.root, name, builder.stages[name].link)
    if lines is None:
        return None
    from tunemake.progress import Watch

    try:
        for other in _other_gates(builder, name):
            with Watch(other) as watch:
                builder.make(other, anew=False, watch=watch)
            lines += failure(builder.root, other, builder.stages[other].link) or []
    except TunemakeError as error:
        lines.append(str(error))
    return "\n".join([*lines, STEP])


def _other_gates(builder: Builder, name: str) -> list[str]:
    """Name the gates of what is built to the end."""
    gates = {other: stage for other, stage in builder.stages.items() if stage.kind == "gate" and other != name}
    built = {need.stage: builder.is_built(need.stage) for stage in gates.values() for need in stage.needs.values()}
    return [other for other, stage in gates.items() if all(built[need.stage] for need in stage.needs.values())]
