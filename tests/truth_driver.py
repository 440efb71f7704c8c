"""Builds projects in forks of one warm process, so that each build is a process of its own and costs milliseconds.

    python tests/truth_driver.py FOLDER    # orders on standard input, answers on standard output, a line of JSON each

The warm process has built a project of no code of its own, and nothing of the others. An order to build is answered
with the number of the fork, which may then be killed; an order to wait with its end.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import truth_project
from tunemake import process
from tunemake.faults import Fault, StageError, TunemakeError
from tunemake.loading import load_builder
from tunemake.stages import LOG, Job, __main__

LIGHT = {"base", "dataset", "data", "config"}
_LIBRARIES = ("tunemake.tasks", "tunemake.progress", "tunemake_builtins.mix", "doit.doit_cmd")
# What the interpreter tells of on the way from one state of the disk to the next.
_EVENTS = {
    "open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.truncate", "os.utime",
    "os.scandir", "os.listdir", "fcntl.flock",
}  # fmt: skip


def forked_stage(
    stage: str, job: Job, share: Any, watch: Callable[[Any], None], dies_at: int | None = None
) -> dict[str, Any]:
    """Run a stage as process.run_stage does, in a fork: what is imported is there, and a plugin is imported anew."""
    del watch
    process.prepare(job)
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _die_at(dies_at, str(job.root))
        _be_stage(stage, job, share[0], theirs)
    os.close(theirs)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ours)
    return process.outcome(stage, code, job)


def _be_stage(stage: str, job: Job, environment: dict[str, str], standard_input: int) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(job.root)
        os.dup2(standard_input, 0)
        os.dup2(os.open(job.work / LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
        os.dup2(2, 1)
        os.environ |= {**environment, "TUNEMAKE_BUILD": str(os.getppid())}
        sys.argv = ["tunemake.stages", stage, str(job.work)]
        for name in [name for name in sys.modules if name.startswith("tunemake_project_") or _is_of(name, job.root)]:
            del sys.modules[name]
        code = __main__.main()
    except BaseException:  # noqa: BLE001 - a fork must not come back
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_of(name: str, root: Path) -> bool:
    """Say whether a module was imported from the project: the fork's stage imports it anew, as a process does."""
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and Path(file).is_relative_to(root)


def build(order: dict[str, Any]) -> dict[str, list[str]]:
    """Make the stages that need no training, all or one with what it needs; give their names and links."""
    root = Path(order["root"])

    def run(stage: str, *job: Any) -> dict[str, Any]:
        truth_project.write(root, order.get("meanwhile", {}), "stat")
        if order["how"] == "here":
            return importlib.import_module(f"tunemake.stages.{stage}").run(job[0]) or {}
        if order["how"] == "process":
            return process.run_stage(stage, *job)
        return forked_stage(stage, *job, dies_at=order.get("stage_dies_at"))

    builder = load_builder(root, run=run)
    light = [name for name, stage in builder.stages.items() if stage.kind in LIGHT]
    wanted = light
    if order.get("pick") is not None:
        wanted = _with_needs(builder, light[order["pick"] % len(light)])
    for name in wanted:
        if not builder.state(name).fresh:
            builder.make(name, anew=False, watch=lambda _: None)
    builder.store.digests.save()
    return {name: list(builder.stages[name].links) for name in wanted}


def _with_needs(builder: Any, name: str) -> list[str]:
    before = [needed for need in builder.stages[name].needs.values() for needed in _with_needs(builder, need.stage)]
    return [*dict.fromkeys(before), name]


def _be_build(order: dict[str, Any]) -> None:
    answer: dict[str, Any] = {}
    try:
        os.chdir(order["root"])
        with Path(order["answer"] + ".log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        counted = _die_at(order.get("die_at"), order["root"])
        answer = {"ok": True, "stages": _doit(order) if order["how"] == "doit" else build(order), "events": counted()}
    except TunemakeError as error:
        answer = {"ok": False, "error": str(error)}
    except BaseException:  # noqa: BLE001 - told to the test
        answer = {"ok": False, "crash": traceback.format_exc()}
    finally:
        Path(order["answer"]).write_text(json.dumps(answer))
        os._exit(0)


def _doit(order: dict[str, Any]) -> dict[str, list[str]]:
    """Build all by doit in this very process; what it says is in the log."""
    from doit.doit_cmd import DoitMain

    code = DoitMain().run(["base", "dataset", "config", "data"])
    if code:
        raise StageError(Fault("doit", f"exit code {code}"))
    stages = load_builder(Path(order["root"])).stages
    return {name: list(stage.links) for name, stage in stages.items() if stage.kind in LIGHT}


def _die_at(number: int | None, root: str) -> Callable[[], int]:
    """Kill this process before the event of that number that concerns the project's build; give a counter of them."""
    own, seen, inside = os.getpid(), 0, f"{root}/build"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _EVENTS or os.getpid() != own or (event == "open" and arguments[1] in {"r", "rb"}):
            return
        if event != "fcntl.flock" and not str(arguments[0]).startswith(inside):
            return
        seen += 1
        if number is not None and seen > number:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: seen


def main() -> None:
    """Take orders until there are no more."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    build({"root": sys.argv[1], "how": "here"})  # a project without code of its own: imports and tables of libraries
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer: Any = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _be_build(order)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
