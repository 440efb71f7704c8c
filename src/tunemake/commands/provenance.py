"""tunemake lock, verify, attest, status: what the build was made from, whether it still is, what changed since."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake import attestation
from tunemake.artifacts import elsewhere
from tunemake.faults import Fault, InputError
from tunemake.gate import lines_of
from tunemake.holdings import flaws_in
from tunemake.loading import load_builder
from tunemake.lock import FILE, change_line, changes, contents, lock_flaws, read_lock, shown, unrecorded, write_lock
from tunemake.model_record import dequantised_of, model_flaws, read_model_record
from tunemake.plan import as_text, plan
from tunemake.stage import Stage
from tunemake.withholding import verdict

Say = Callable[[str], None]


def lock(root: Path, say: Say, *, machine: bool = False) -> int:
    """Write tunemake.lock of the project in a folder; raises InputError where something is stale."""
    builder = load_builder(root)
    try:
        changed = write_lock(builder)
    except OSError as error:
        raise InputError(Fault(FILE, f"cannot be written: {error.strerror}")) from error
    builder.store.digests.save()
    say(json.dumps({"changed": changed}) if machine else f"wrote {FILE}" if changed else f"{FILE} is as it was")
    return 0


def verify(root: Path, say: Say, folder: Path | None = None, *, machine: bool = False) -> int:
    """Read every file that the project's links show, or a model's folder has, and compare it with what is recorded.

    Nothing is built, no remembered digest is believed, and torch is not needed. Gives 1 where anything differs.
    """
    return _told(say, *(_verified(root) if folder is None else _verified_model(folder)), machine=machine)


def verify_merge(say: Say, folder: Path, base: Path, adapter: Path | None, *, machine: bool = False) -> int:
    """Prove that a model's folder is the base with the adapter merged, or without one a full fine-tuning of it.

    Its record says to which dtype; neither says by which prompt template, so that the chat template is not compared.
    Gives 1 where anything differs.
    """
    from tunemake.merge_proof import prove

    read, _, flaws, against = _verified_model(folder)
    # The record does not say how large a file may be: as large as the largest is.
    largest = max((path.stat().st_size for path in folder.glob("*.safetensors")), default=0)
    record = read_model_record(folder)
    four_bits, dtype = dequantised_of(folder, record), record.get("dtype", "base")
    proof = prove(folder, base, adapter, dtype=dtype, shard_size=largest, four_bits=four_bits)
    weights, values, whole = (proof.facts[name] for name in ("weights", "values", "whole_tensors"))
    against += f"; {weights} changed weights at {values} values and {whole} tensors whole, with {base}"
    against += ", dequantised from 4 bits," if four_bits else ""
    against += f" and {adapter}" if adapter else ": that they differ"
    return _told(say, read, 0, [*flaws, *map(str, proof.faults)], f"{against}; no chat template", machine=machine)


def attest(root: Path, say: Say, key: Path, *, machine: bool = False) -> int:
    """Sign a statement of the merged models, with what tunemake.lock says, once all of it is verified.

    Gives 1, and signs nothing, where anything differs.
    """
    locked = read_lock(root)
    if locked is None:
        raise InputError(Fault(FILE, "not there; it is what is signed", next_step="run doit, or tunemake lock"))
    read, away, flaws, against = _verified(root)
    if flaws:
        return _told(say, read, away, flaws, against, machine=machine)
    told = attestation.statement(locked)
    attestation.sign(told, key, root / attestation.FILE)
    count = len(told["subject"])
    say(json.dumps({"file": attestation.FILE, "subjects": count}) if machine
        else f"wrote {attestation.FILE}: {count} files of merged models, after {read} files were read")  # fmt: skip
    return 0


def verify_signed(
    root: Path, say: Say, folder: Path | None, signed: Path, public_key: Path, *, machine: bool = False
) -> int:
    """Verify as `verify` does, and against a signed statement. Gives 1 where anything differs, or the key is another.

    folder: a merged model's; by default the project's links are verified.
    """
    told = attestation.signed_statement(signed, public_key)
    if told is None:
        return _told(say, 0, 0, [f"{signed} is not signed by {public_key}"], "nothing", machine=machine)
    read, away, flaws, against = _verified(root) if folder is None else _verified_model(folder)
    count, unlike = attestation.subject_flaws(told, root, folder)
    locked = None if folder is not None else read_lock(root)
    if folder is None and locked is None:
        unlike.append(f"{FILE} is gone, by which the other stages would be held against what was signed")
    if locked is not None and locked != told["predicate"]:
        unlike.append(f"{FILE} is not the one that was signed")
    against = f"{against}, and {count} of them with what {public_key.name} signed"
    return _told(say, read, away, [*flaws, *unlike], against, machine=machine)


def status(root: Path, say: Say, *, machine: bool = False) -> int:
    """Tell in a few lines how lock, build and project differ, and where the models lie."""
    builder = load_builder(root)
    locked, now = read_lock(root), contents(builder)
    found = [] if locked is None else changes(locked, now)
    steps = [step for step in plan(builder) if step.verdict != "fresh"]
    builder.store.digests.save()
    places, judged = dict(_models(root, builder.stages.values())), _gates(root, builder.stages)
    if machine:
        told = {"lock": "missing" if locked is None else "differs" if found else "as built", "differences": found,
                "stale": [{"stage": step.stage, "verdict": step.verdict, "reasons": step.reasons} for step in steps],
                "gates": judged, "models": places}  # fmt: skip
        say(json.dumps(told, ensure_ascii=False, indent=1))
        return 0
    say(_lock_line(locked, len(found)))
    for change in found:
        say(f"  {change_line(change)}")
    say("build: up to date" if not steps else f"build: {len(steps)} of {len(builder.stages)} stages are stale")
    for line in as_text(steps).splitlines() if steps else []:
        say(f"  {line}")
    for name, judgement in judged.items():
        former = " (a model that is not up to date)" if name in {step.stage for step in steps} else ""
        say(f"{name}: {'passed' if judgement['passed'] else 'failed'}{former}")
        for line in lines_of(judgement, name):
            say(f"  {line}")
    for name, place in places.items():
        say(f"{name}: {place}")
    return 0


def _verified(root: Path) -> tuple[int, int, list[str], str]:
    """Give how many files were read, how many lie elsewhere, what is wrong, and what it was compared with."""
    links, locked = shown(root), read_lock(root)
    if not links and locked is None:
        raise InputError(
            Fault(str(root / "build"), "nothing is built here", next_step="run doit, or name a model folder")
        )
    broken = [f"{link} shows nothing: its artifact is gone" for link, entry in links.items() if not entry.is_dir()]
    # An artifact that several links show is read once.
    entries = {entry: link for link, entry in reversed(links.items()) if entry.is_dir()}
    read, flaws = flaws_in({link: entry for entry, link in entries.items()})
    flaws += [f"{link}/{name} is not recorded" for entry, link in entries.items() for name in unrecorded(entry)]
    away = sum(not (entry / name).exists() for entry in entries for name in elsewhere(entry))
    against = "the records alone: there is no tunemake.lock"
    if locked is not None:
        flaws += lock_flaws(locked, root)
        against = f"the records and {FILE}"
    return read, away, sorted(broken + flaws), against


def _verified_model(folder: Path) -> tuple[int, int, list[str], str]:
    record = read_model_record(folder)
    read, flaws = model_flaws(folder)
    base, adapter = record.get("base", {}), record.get("adapter", {})
    of = f"{base.get('source')} ({str(base.get('sha256'))[:12]})"
    by = "".join(f", adapter {digest[:12]}" for name, digest in adapter.items() if name.endswith(".safetensors"))
    told = f"its record: {record.get('project')}, made from {of}{by}"
    return read, 0, [f"{folder}/{flaw}" for flaw in flaws], told


def _told(say: Say, read: int, away: int, flaws: list[str], against: str, *, machine: bool) -> int:
    if machine:
        told = {"files": read, "elsewhere": away, "flaws": flaws, "against": against}
        say(json.dumps(told, ensure_ascii=False, indent=1))
        return 1 if flaws else 0
    for flaw in flaws:
        say(flaw)
    left = f", {away} lie in another store" if away else ""
    say(f"{read} files read{left}, {len(flaws)} differ; compared with {against}")
    return 1 if flaws else 0


def _lock_line(locked: dict[str, Any] | None, differences: int) -> str:
    if locked is None:
        return f"{FILE}: not written yet; a build of everything writes it"
    if not differences:
        return f"{FILE}: as built"
    return f"{FILE}: differs from the build in {differences} place{'s' * (differences != 1)} (lock → build)"


def _gates(root: Path, stages: Mapping[str, Stage]) -> dict[str, Mapping[str, Any]]:
    """Give the verdicts that are there, of the model that was judged last."""
    found = {name: verdict(root / stage.link) for name, stage in stages.items() if stage.kind == "gate"}
    return {name: told for name, told in found.items() if told is not None}


def _models(root: Path, stages: Any) -> Iterator[tuple[str, str]]:
    titles = {"base": "base model", "adapter": "adapter", "merge": "merged model"}
    for stage in stages:
        if stage.kind in titles and (root / stage.link).is_dir():
            _, _, variant = stage.name.partition(":")
            inside = "/model" if stage.kind == "base" else ""
            yield f"{titles[stage.kind]}{f' of {variant}' if variant else ''}", stage.link + inside
