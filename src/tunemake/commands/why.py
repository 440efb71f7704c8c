"""doit why and doit plan (and tunemake's): what the next build would make, and why, without building anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doit.cmd_base import Command

from tunemake.commands.doit_end import ends_in_order
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.loading import load_builder
from tunemake.plan import as_json, as_text, plan


def told(root: Path, names: Sequence[str], *, everything: bool, machine: bool) -> str:
    """Give the plan of the project in a folder as text, or as JSON for machines.

    names: the stages that are wanted, by default all. everything: tell stages that are up to date too.
    """
    builder = load_builder(root)
    wanted = [stage for name in names for stage in stages_of(list(builder.stages), name)]
    steps = plan(builder, wanted, lambda event: print(event["say"], file=sys.stderr))  # noqa: T201 - a command prints
    builder.store.digests.save()
    shown = [step for step in steps if everything or machine or step.verdict != "fresh"]
    return as_json(steps) if machine else as_text(shown)


def stages_of(known: list[str], name: str) -> list[str]:
    """Give the stages that a task's name stands for; raises InputError where there is none."""
    found = [stage for stage in known if stage == name or stage.startswith(f"{name}:")]
    if not found:
        raise InputError(Fault(name, "no such stage", next_step=did_you_mean(name, known) or ", ".join(known)))
    return found


class Why(Command):  # type: ignore[misc]
    """doit's command `why`: each stale stage with its reasons."""

    name = "why"
    doc_purpose = "say why each stage will be made anew; builds nothing"
    doc_usage = "[TASK ...]"
    doc_description = None
    cmd_options = ({"name": "json", "long": "json", "type": bool, "default": False, "help": "for machines"},)
    everything = False

    def execute(self, opt_values: Any, pos_args: Any) -> int:
        """Print the plan."""
        with ends_in_order():
            print(told(Path.cwd(), pos_args, everything=self.everything, machine=opt_values["json"]))  # noqa: T201 - a command prints
        return 0


class Plan(Why):
    """doit's command `plan`: every stage, with what the next build will do about it."""

    name = "plan"
    doc_purpose = "say what the next build will do, stage by stage; builds nothing"
    everything = True
