"""tunemake.lock: what the whole build was made from and came to, as a file for version control beside project.toml.

JSON, the same bytes for the same build: no times, no host, no place of the machine, no secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from tunemake.artifacts import files_under, read_record
from tunemake.digests import replace_text, sha256_of_json
from tunemake.faults import Fault, InputError
from tunemake.glance import keep_stamps
from tunemake.staleness import differences, short, with_ones

if TYPE_CHECKING:  # a build with nothing to do needs none of it
    from tunemake.building import Builder
    from tunemake.stage import Stage

FILE, TRACKING = "tunemake.lock", "tracking"
CHOSEN = "chosen"  # values that the project left to be chosen, by variant
FORMAT = 1
_NO_CONTENT = "log.txt"
_USER_IN_URL = re.compile(
    r"(?<=://)[^/@\s]+@|(?<=[?&#])[^\s&=]*(?:token|key|secret|sig|signature)[^\s&=]*=[^\s&]*", re.IGNORECASE
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def contents(builder: Builder) -> dict[str, Any]:
    """Give what a lock says of what the project's links show now, stale or not; a stage that shows nothing is None."""
    told = {name: _stage(builder, stage) for name, stage in builder.stages.items()}
    environments: dict[str, dict[str, str]] = {}
    for name, stage in told.items():
        if stage is not None:
            made_by = (builder.store.record(builder.stages[name].link) or {}).get("environment", {})
            stage["environment"] = key = sha256_of_json(made_by)[:12]
            environments[key] = dict(sorted(made_by.items()))
    chosen = {name: {**project.chosen, **_chosen_later(builder, name)} for name, project in builder.projects.items()}
    chosen = {name: values for name, values in chosen.items() if values}
    return {
        "format": FORMAT, "project": builder.project.name, "seed": builder.project.seed,
        **({CHOSEN: chosen} if chosen else {}),
        "environments": dict(sorted(environments.items())), "stages": told,
    }  # fmt: skip


def stale(builder: Builder) -> list[str]:
    """Name the stages that are not fresh."""
    found = []
    for name in builder.stages:
        try:
            if not builder.state(name).fresh:
                found.append(name)
        except InputError:  # something that it reads is not there
            found.append(name)
    return found


def write_lock(builder: Builder) -> bool:
    """Write the lock of a build that is fresh, whole or not at all; say whether it is another than before.

    Raises InputError where something is stale, and OSError where the file cannot be written.
    """
    if names := stale(builder):
        raise InputError(Fault(FILE, f"not written: stale: {', '.join(names)}", next_step="run doit"))
    text, path = as_text(contents(builder)), builder.root / FILE
    before = path.read_text("utf-8", errors="replace") if path.is_file() else None
    if text != before:
        replace_text(path, text)
    keep_stamps(builder.root, [FILE, *(link for stage in builder.stages.values() for link in stage.links)])
    return text != before


def after_build(builder: Builder) -> str:
    """Write the lock at the end of a build without failures, if all is fresh; give a line to tell, or ""."""
    builder.store.digests.refresh()
    try:
        return f"wrote {FILE}\n" if write_lock(builder) else ""
    except InputError:  # the rest of the project is stale: its next build writes it
        return ""
    except OSError as error:
        return f"{FILE} cannot be written: {error.strerror}\n"


def read_lock(root: Path) -> dict[str, Any] | None:
    """Read the lock of the project in a folder; None where there is none. Raises InputError for one that is damaged."""
    try:
        told = json.loads((root / FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        step = f"delete it, and run tunemake lock, or take it from version control: {error}"
        raise InputError(Fault(FILE, "cannot be read", next_step=step)) from error
    if not _is_lock(told):
        got = repr(told.get("format") if isinstance(told, dict) else type(told).__name__)
        step = "delete it and run tunemake lock"
        raise InputError(Fault(FILE, "not of a form that this version understands", f"format {FORMAT}", got, step))
    return dict(told)


def as_text(told: Mapping[str, Any]) -> str:
    """Write a lock's content in its one form."""
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def changes(lock: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what a lock and a build do not have in common: stage ("" for the project), field, lock and build."""
    found = [
        {"stage": "", "field": name, "lock": lock.get(name), "build": now[name]}
        for name in ("project", "seed") if lock.get(name) != now[name]
    ]  # fmt: skip
    for stage in [*lock["stages"], *(name for name in now["stages"] if name not in lock["stages"])]:
        before, after = (_with_environment(told, stage) for told in (lock, now))
        if before is None or after is None:
            if before != after:
                there = [None if told is None else "made" for told in (before, after)]
                found.append({"stage": stage, "field": "", "lock": there[0], "build": there[1]})
            continue
        found += [{"stage": stage, "field": name, "lock": old, "build": new}
                  for name, old, new in _fields(before, after)]  # fmt: skip
    return found


def change_line(change: Mapping[str, Any]) -> str:
    """Write a change as a person reads it."""
    place = ": ".join(part for part in (change["stage"], change["field"]) if part)
    return f"{place}: {_value(change['lock'])} → {_value(change['build'])}"


def lock_flaws(lock: Mapping[str, Any], root: Path) -> list[str]:
    """Say which records of the artifacts that the project's links show are not what the lock says."""
    found = []
    for name, told in lock["stages"].items():
        for link in told["links"]:
            record = read_record(root / link)
            if record is None:
                found.append(f"{link} shows no artifact, though {FILE} has it")
            elif record["fingerprint"] != told["fingerprint"]:
                found.append(f"{link} is not the {name} of {FILE}: it was made from something else")
            else:
                found += _output_flaws(link, told["outputs"], record)
    known = {link for told in lock["stages"].values() for link in told["links"]}
    return found + [f"{link} is not in {FILE}" for link in shown(root) if link not in known]


def shown(root: Path) -> dict[str, Path]:
    """Give the folders of the artifacts that the links of a project show, by link; what a broken one names too."""
    found = {}
    for place, folders, names in os.walk(root / "build"):
        for name in sorted([*folders, *names]):
            link = Path(place) / name
            if link.is_symlink() and not name.startswith("."):
                found[link.relative_to(root).as_posix()] = Path(os.path.realpath(link))  # resolve() raises for a circle
        # What trackers write is theirs.
        tracked = {TRACKING} if Path(place) == root / "build" else set()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in tracked)
    return found


def unrecorded(entry: Path) -> list[str]:
    """Name the files in an artifact's folder that its record does not."""
    record = read_record(entry)
    return [] if record is None else [name for name in files_under(entry) if name not in record["outputs"]]


def _chosen_later(builder: Builder, variant: str) -> dict[str, Any]:
    """Give what the config of a variant says was chosen when the base model was there."""
    link = f"build/{variant}/config"
    found = [builder.store.record(link) for stage in builder.stages.values() if link in stage.links]
    return {name: value for record in found if record for name, value in record["facts"].get(CHOSEN, {}).items()}


def _stage(builder: Builder, stage: Stage) -> dict[str, Any] | None:
    record = builder.store.record(stage.link)
    if record is None:
        return None
    told = {
        "links": list(stage.links), "fingerprint": record["fingerprint"], "version": record["stage_version"],
        "made_from": {role: need.stage for role, need in sorted(stage.needs.items())},
        "parameters": _portable(record["parameters"]), "sources": _portable(record.get("sources", {})),
    }  # fmt: skip
    if stage.generator is not None:
        plugin, parameters = builder.plugins, stage.parameters["parameters"]
        used = dict.fromkeys(name for name, _ in plugin.used(stage.generator, parameters))
        told["generators"] = {name: plugin.facts(name).version for name in used}
        told["code"] = dict(sorted(record.get("code", {}).items()))
    if stage.kind == "base":
        told["model"] = {name: record["facts"].get(name) for name in ("revision", "sha256")}
    outputs = {name: output["sha256"] for name, output in record["outputs"].items() if name != _NO_CONTENT}
    return told | {"outputs": dict(sorted(outputs.items()))}


def _portable(value: Any) -> Any:
    """Leave out of values what is of one machine: the folders of an absolute path, and a user in a URL."""
    if isinstance(value, Mapping):
        return {_portable(key): _portable(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~/")) and "\n" not in value and len(PurePath(value).parts) > 2:  # noqa: PLR2004 - no path
        return f"…/{PurePath(value).name}"
    return _USER_IN_URL.sub("", value)


def _is_lock(told: object) -> bool:
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("stages"), dict):
        return False
    chosen = told.get(CHOSEN, {})
    if not isinstance(chosen, dict) or not all(isinstance(values, dict) for values in chosen.values()):
        return False
    shapes = {"links": list, "fingerprint": str, "outputs": dict}
    return all(
        isinstance(stage, dict)
        and isinstance(stage.get("parameters", {}), dict)
        and all(isinstance(stage.get(name), shape) for name, shape in shapes.items())
        for stage in told["stages"].values()
    )


def _with_environment(told: Mapping[str, Any], stage: str) -> dict[str, Any] | None:
    entry = told["stages"].get(stage)
    return entry and {**entry, "environment": told.get("environments", {}).get(entry.get("environment"), {})}


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    # A fingerprint that alone is another says that what the stage was made from is.
    old, new = with_ones(before.get("parameters", {}), after.get("parameters", {}))
    told = list(differences({**before, "parameters": old}, {**after, "parameters": new}))
    values = [change for change in told if change[0] != "fingerprint"]
    yield from values or told


def _output_flaws(link: str, locked: Mapping[str, str], record: Mapping[str, Any]) -> Iterator[str]:
    recorded = {name: output["sha256"] for name, output in record["outputs"].items() if name != _NO_CONTENT}
    for name, old, new in ((name, locked.get(name), recorded.get(name)) for name in sorted({*locked, *recorded})):
        if old != new:
            yield f"{link}/{name} is not what {FILE} says: {_value(old)} there, {_value(new)} in its record"


def _value(value: Any) -> str:
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else short(value)
