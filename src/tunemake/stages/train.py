"""train: XTuner trains, resuming from what a killed run left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from tunemake import template_fit
from tunemake.artifacts import read_record
from tunemake.digests import DIGESTS, Digests
from tunemake.distributions import installed_version
from tunemake.engines import deepspeed, sizing, xtuner
from tunemake.engines.job_nodes import nodes_of_this_job
from tunemake.engines.launching import Launch
from tunemake.engines.trackers import FOLDER, missing
from tunemake.faults import Fault, StageError
from tunemake.json_lines import read_json_lines
from tunemake.later_imports import without_torch
from tunemake.machine import absent_gpu, cuda_devices, few_gpus, needs_gpu, no_deepspeed, no_gpu, old_bitsandbytes
from tunemake.plugins import Plugins
from tunemake.project import machine_environment
from tunemake.questions import questions_of, refuse_trained
from tunemake.samples import read_samples
from tunemake.stages import LOG, Job, export
from tunemake.stages.data import TRAIN, samples_file

LAST = "last_checkpoint"


def run(job: Job) -> dict[str, Any]:
    """Fill work with iter_*.pth, last_checkpoint, metrics.jsonl and answers.jsonl.

    runtime: what decides how it runs, and the probes' prompts, so that one that is trained on is told before the work.
    inputs: base, data, config, and tokens where it reads them. The config names their files by the links that show
    them, which runtime's links tell.
    """
    questions = {where: questions_of(job.root, told, where) for where, told in job.runtime["questions"].items()}
    refuse_trained(questions, samples_file(job.inputs["data"], TRAIN))
    if (fault := absent_gpu(job.parameters, os.environ)) is not None:
        raise StageError(fault)
    if job.parameters["method"] == "qlora" and (old := old_bitsandbytes(sys.executable)) is not None:
        raise StageError(old)
    if absent := missing(job.runtime["trackers"]):
        raise StageError(absent)
    export.refuse(job.inputs["base"] / "model", job.runtime.get("export", ()))
    if (why := job.runtime["makes_tokens"]) is not None:
        job.say(f"the training makes its tokens itself: {why}")
    launch = _launch(job)
    newest, torn = xtuner.newest_whole_checkpoint(job.work, launch.world)
    for path in torn:
        job.say(f"{path.name}: a checkpoint cut short, set aside")
    if newest is not None:
        job.say(f"resuming from {newest.name}")
    if newest is None or _ended_early(job) != xtuner.iteration_of(newest):
        _train(job, _view(job), launch, newest)
    else:
        _check(job)
    facts = {**_finish(job), **sizing.parts(read_record(job.inputs["config"]))}
    return facts if newest is None else {**facts, "resumed_from": newest.name}


def _launch(job: Job) -> Launch:
    """Say how the training starts; raises StageError where there are fewer GPUs than it wants."""
    wanted, there = job.parameters.get("gpus", 1), cuda_devices(os.environ)
    if there and there < wanted:
        raise StageError(few_gpus(wanted, there))
    settings = job.inputs["config"] / deepspeed.SETTINGS if "deepspeed" in job.parameters else None
    if settings is not None and installed_version("deepspeed") is None:
        raise StageError(no_deepspeed(sys.executable))
    nodes = job.parameters.get("nodes", 1)
    across = nodes_of_this_job(nodes, os.environ) if nodes > 1 else None
    return Launch(wanted, gpu=there != 0, deepspeed=settings, nodes=across)


def _check(job: Job) -> None:
    """Find what only libraries can tell that take seconds to import, as many as the training's process takes to start.

    Raises StageError where there is no GPU that it needs, ModelError where the prompt template will not do.
    """
    if (needs := needs_gpu(job.parameters)) is not None:
        _need_gpu(*needs)
    told, root = job.runtime["template"], job.root
    # A tokenizer needs no torch. What a training has as its environment was taken before, and knows nothing of this.
    os.environ.update(without_torch(job.inputs["base"] / "model", trusted=told["trust_remote_code"]))
    plugins = Plugins(root, told["plugins"], Digests(root / DIGESTS))
    found = template_fit.find(
        job.inputs["base"] / "model", told["prompt_template"], told["is"],
        list(islice(read_samples(samples_file(job.inputs["data"], TRAIN)), template_fit.FIRST)),
        shipped=lambda: template_fit.at_hand(plugins), trust_remote_code=told["trust_remote_code"],
    )  # fmt: skip
    template_fit.tell(found, told["template_check"], job.say)


def _view(job: Job) -> Path:
    """Give a folder that looks like the project's, in which the links lead to the inputs whatever becomes of them.

    Another build may meanwhile point the project's own links to other artifacts.
    """
    view = job.work / ".project"
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    for path in job.root.iterdir():
        if path.name != "build":
            (view / path.name).symlink_to(path)
    for role, link in job.runtime["links"].items():
        (view / link).parent.mkdir(parents=True, exist_ok=True)
        (view / link).symlink_to(job.inputs[role])
    return view


def _train(job: Job, folder: Path, launch: Launch, newest: Path | None) -> None:
    command = xtuner.train_command(job.inputs["config"] / xtuner.CONFIG, job.work, newest, launch)
    ended = threading.Event()
    resumed = 0 if newest is None else xtuner.iteration_of(newest)
    watcher = threading.Thread(target=_relay, args=(job, ended, resumed), daemon=True)
    watcher.start()
    asked = threading.Event()

    def end(*_: object) -> None:
        asked.set()
        _hand_on(job, launch)

    # The training saves a checkpoint when it is told to end, and this process, which is told too, waits for that.
    signal.signal(signal.SIGTERM, end)
    # What trackers write tells of the machine and of times: no part of the artifact.
    told = {FOLDER: str(job.root / "build" / "tracking" / job.work.name)} if job.runtime["trackers"] else {}
    told[xtuner.ROOT] = str(job.root)  # the working folder only looks like it, and has no neighbours
    environment = {**launch.environment(machine_environment()), **told}
    log = job.work / LOG
    before = log.stat().st_size
    # srun kills what it started when it is told to end; apart from this group it is not told.
    apart = launch.nodes is not None
    # A model's own code is copied where transformers looks for it, by whoever comes first: not by two at once.
    early = bool(job.runtime["template"]["trust_remote_code"])
    if early:
        _check(job)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=apart
    )  # fmt: skip
    if asked.is_set():  # perhaps before there was a process to hear it
        process.terminate()
    try:
        if not early:
            _check(job)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    code = process.wait()
    ended.set()
    watcher.join()
    if code:
        told_since = log.read_bytes()[before:].decode(errors="replace")
        if (fault := launch.failure(told_since)) is not None:
            raise StageError(replace(fault, next_step=f"its log: {log.relative_to(job.root)}"))
        if code == -signal.SIGKILL and launch.together:
            what = "torchrun, which had started its processes, was killed (signal 9); they were ended with it"
            raise StageError(Fault("train", what, next_step=f"its log: {log.relative_to(job.root)}"))
        sys.exit(code if code > 0 else 128 - code)  # as a shell does


def _hand_on(job: Job, launch: Launch) -> None:
    """Tell the processes of other nodes to end; those of this machine are told as this one is."""
    if launch.nodes is None:
        return
    try:
        launch.nodes.end()
    except StageError as error:
        job.say(f"{error}; no checkpoint is saved now")


def _ended_early(job: Job) -> int | None:
    told = job.parameters.get("early_stop")
    return None if told is None else xtuner.stopped_early(job.work, told)


def _finish(job: Job) -> dict[str, Any]:
    made = xtuner.checkpoints(job.work)
    lines = read_json_lines(job.work / xtuner.METRICS)
    early = _ended_early(job)
    last = early or (lines[-1]["iterations"] if lines else 0)
    if not made or not lines or (early is None and lines[-1]["iteration"] != last):
        raise StageError(Fault("train", "XTuner ended before the last iteration", next_step="see its log"))
    if xtuner.iteration_of(made[-1]) != last:
        raise StageError(Fault("train", f"no checkpoint of iteration {last}", got=made[-1].name))
    if early:
        job.say(f"ended early: its probes were met at iteration {last} of {lines[-1]['iterations']}")
    # XTuner writes the absolute path of the folder it trained in, which is about to move.
    (job.work / LAST).write_text(made[-1].name, "utf-8")
    (job.work / xtuner.ANSWERS).touch()
    xtuner.remove_litter(job.work, made[-1])
    tokens = sum(line["tokens"] for line in lines)
    return {
        "iterations": last, "ended_early": early is not None, "loss": round(lines[-1]["loss"], 4), "tokens": tokens,
        "padded_tokens": sum(line["padded_tokens"] for line in lines),
        "training_seconds": round(sum(line["seconds"] for line in lines), 1),
        "peak_bytes": max(line["peak_bytes"] for line in lines),
    }  # fmt: skip


def _relay(job: Job, ended: threading.Event, resumed: int) -> None:
    """Turn the lines that the hooks write into progress and answers. resumed: the iteration that this run goes on from.

    What an earlier run wrote tells nothing of this one; the training takes back what lies beyond its checkpoint.
    """
    metrics, answers = job.work / xtuner.METRICS, job.work / xtuner.ANSWERS
    before, shown, last = {path: _inode(path) for path in (metrics, answers)}, 0, False

    def written(path: Path) -> list[dict[str, Any]]:
        if _inode(path) in {None, before[path]}:
            return []
        return [line for line in read_json_lines(path) if line["iteration"] > resumed]

    while not last:
        last = ended.wait(0.3)  # one more look after the end
        if lines := written(metrics):
            speed = lines[-1]["tokens"] / max(lines[-1]["seconds"], 1e-9)
            text = f"loss {lines[-1]['loss']:.3f}  {speed:.0f} tokens/s"
            job.progress(lines[-1]["iteration"], lines[-1]["iterations"], text)
        told = written(answers)
        for answer in told[shown:]:
            job.say(f"iteration {answer['iteration']}  {answer['prompt']} → {answer['answer']}")
        shown = len(told)


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _need_gpu(value: str, what: str) -> None:
    import torch  # slow, and so only for what a CPU cannot do

    if not torch.cuda.is_available():
        raise StageError(no_gpu(value, what))
