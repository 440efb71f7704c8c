"""tunemake show data: samples as the model will see them, template and all, with what is trained marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.text import Text

from tunemake.building import Builder
from tunemake.checking import base_folder
from tunemake.data_check import stage_of
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.loading import load_builder
from tunemake.project import Project
from tunemake.samples import read_samples
from tunemake.stages.data import TRAIN, samples_file
from tunemake.stages.dataset import SAMPLES
from tunemake.trained_text import Part, TrainedTexts

_TRAINED, _CUT = "bold green", "strike dim red"
_OPEN, _CLOSE, _SCISSORS = "⟦", "⟧", "✂"
# What would move a terminal's cursor, colour it or ring its bell; a line's end and a tab do not harm.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_data(root: Path, count: int, dataset: str | None, *, colour: bool) -> Iterator[Text]:
    """Give the first training samples, or those of one dataset, as text for a console, legend first.

    colour: mark by colour; else by brackets, and scissors where a sample is cut. Raises InputError where the samples
    or the base model's tokenizer are not there yet.
    """
    builder = load_builder(root)
    project = builder.project
    file, of = _file(builder, project, dataset)
    folder = base_folder(builder, project)
    if folder is None:
        raise InputError(Fault("model.source", "the base model is not here yet", next_step="run doit base"))
    template = builder.plugins.prompt_template(project.model["prompt_template"])
    texts = TrainedTexts(folder, template, project.data["max_length"])
    yield _legend(project, colour=colour)
    for number, sample in enumerate(islice(read_samples(file), count), 1):
        parts = texts.parts(sample["messages"])
        yield Text(f"\nsample {number} of {of:,}: {_told(parts, texts.max_length)}")
        yield _marked(parts, colour=colour)


def _file(builder: Builder, project: Project, dataset: str | None) -> tuple[Path, int]:
    """Give the file of the samples asked for, and how many are in it."""
    known = [declared.name for declared in project.datasets]
    if dataset is not None and dataset not in known:
        raise InputError(
            Fault(f"--dataset {dataset}", "no such dataset", next_step=did_you_mean(dataset, known) or ", ".join(known))
        )
    stage = stage_of(builder, project, "data" if dataset is None else f"dataset:{dataset}")
    record = builder.store.record(stage.link)
    if record is None:
        raise InputError(Fault(stage.name, "not made yet", next_step=f"run doit {stage.name}"))
    if not _is_fresh(builder, stage.name):
        raise InputError(Fault(stage.name, "not up to date", next_step=f"run doit {stage.name}"))
    if dataset is None:
        return samples_file(builder.root / stage.link, TRAIN), record["facts"][TRAIN]["samples"]
    return builder.root / stage.link / SAMPLES, record["facts"]["samples"]


def _is_fresh(builder: Builder, name: str) -> bool:
    try:
        return builder.state(name).fresh
    except InputError:
        return False


def _legend(project: Project, *, colour: bool) -> Text:
    name, longest = project.model["prompt_template"], project.data["max_length"]
    legend = Text(f"prompt template {name}, at most {longest:,} tokens; ")
    if colour:
        return legend.append("trained", _TRAINED).append(", ").append("cut off", _CUT)
    return legend.append(f"{_OPEN}trained{_CLOSE}, {_SCISSORS} what follows is cut off")


def _told(parts: list[Part], longest: int) -> str:
    tokens = sum(part.tokens for part in parts)
    kept = sum(part.tokens for part in parts if part.trained and not part.cut)
    told = f"{tokens:,} tokens, {kept:,} trained"
    if tokens <= longest:
        return told
    lost = f"cut at {longest:,}, {tokens - longest:,} lost"
    return f"{told}, {lost}" if kept else f"{told}, {lost}: XTuner leaves it out"


def _marked(parts: list[Part], *, colour: bool) -> Text:
    text = Text()
    inside = beyond = False
    for part in parts:
        shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", part.text)
        if colour:
            text.append(shown, _CUT if part.cut else _TRAINED if part.trained else None)
            continue
        trained = part.trained and not part.cut
        text.append((_CLOSE if inside and not trained else "") + (_SCISSORS if part.cut and not beyond else ""))
        text.append((_OPEN if trained and not inside else "") + shown)
        inside, beyond = trained, part.cut
    return text.append(_CLOSE if inside else "")
