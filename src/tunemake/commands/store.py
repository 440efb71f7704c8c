"""tunemake store and tunemake gc: what the store holds, whether it is whole, sending it, and clearing it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tunemake.faults import Fault, InputError
from tunemake.holdings import Held, flaws, holdings
from tunemake.project import load_variants
from tunemake.store import Store
from tunemake.sweep import Rules, Swept, sweep
from tunemake.withholding import gate_of

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def listed(root: Path, *, machine: bool) -> str:
    """Give the store's artifacts as a table, or as JSON for machines."""
    held = holdings(_store(root))
    if machine:
        return json.dumps([_as_json(entry) for entry in held], indent=1)
    rows = [(entry.path.name, amount(entry.size), age(entry.age), _told(entry)) for entry in held]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows]
    spare = [entry for entry in held if not entry.needed]
    lines.append(
        f"{len(held)} artifacts, {amount(sum(entry.size for entry in held))}; "
        f"{len(spare)} unreachable, {amount(sum(entry.size for entry in spare))}"
    )
    return "\n".join(lines)


def verified(root: Path) -> tuple[list[str], bool]:
    """Read all files of the store; give a line for each flaw and one that sums up, and whether all is whole."""
    count, found = flaws(_store(root))
    return [*found, f"{count} files read, {len(found)} flaws"], not found


def sent(root: Path) -> Iterator[str]:
    """Send to the shared store what the project's links show and what is not there; give a line for each that is."""
    from tunemake.loading import load_builder

    builder = load_builder(root)
    if builder.remote is None:
        raise InputError(Fault("project.toml", "names no shared store", next_step='give [store] url = "s3://…"'))
    told: list[str] = []
    for name in builder.stages:
        try:
            state = builder.state(name)
        except InputError:
            continue  # what it needs is not built, and so neither is it
        gate = gate_of(builder.stages, name)
        if gate is not None and state.fresh and not (builder.is_built(gate) and builder.passed(gate)):
            yield f"{name}: not sent: {gate} has not passed"
        elif state.fresh and builder.remote.send(
            builder.store.entry(state.decides), lambda event: told.append(str(event.get("say", "")))
        ):
            yield f"{name}: {state.decides.folder_name} is there"
        yield from filter(None, told)
        told.clear()
    builder.store.digests.save()


def cleared(root: Path, rules: Rules) -> Iterator[str]:
    """Remove what nobody needs; give a line for each thing that went or stays, and one that sums up."""
    store = _store(root)
    swept = sweep(store, rules)
    if store.shared is not None and (store.build / ".store").is_dir():  # from before the project named another place
        own = sweep(Store(root), rules)
        swept = Swept([*swept.removed, *own.removed], [*swept.kept, *own.kept])
    verb = "would remove" if rules.dry_run else "removed"
    yield from (f"{verb} {name}, {amount(size)}" for name, size in swept.removed)
    yield from (f"kept {told}" for told in swept.kept)
    yield f"{verb} {len(swept.removed)}, {amount(sum(size for _, size in swept.removed))}"


def rules(older_than: str | None, keep_size: str | None, *, work: bool, dry_run: bool) -> Rules:
    """Give what may go, from an age such as 30d and a size such as 20GB. Raises InputError for what is neither."""
    span = _number("--older-than", older_than, _SECONDS, "an age such as 30d, 12h or 2w")
    size = _number("--keep-size", keep_size, _BYTES, "a size such as 20GB or 500MB")
    return Rules(span or 0.0, None if size is None else int(size), work=work, dry_run=dry_run)


def _number(option: str, text: str | None, units: Mapping[str, int], expected: str) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in units:
        raise InputError(Fault(option, "cannot be read", expected=expected, got=text))
    return float(found[1]) * units[found[2]]


def amount(count: int) -> str:
    """Write a number of bytes as a person would say it."""
    unit, factor = next((unit, factor) for unit, factor in reversed(_BYTES.items()) if count >= factor or factor == 1)
    return f"{count / factor:.1f} {unit}" if unit else f"{count} bytes"


def age(span: float) -> str:
    """Write seconds as the largest unit that there is a whole one of."""
    unit, factor = next((unit, factor) for unit, factor in reversed(_SECONDS.items()) if span >= factor or factor == 1)
    return f"{span / factor:.0f} {unit}"


def _store(root: Path) -> Store:
    return Store(root, load_variants(root)[0].store.get("path"))


def _told(entry: Held) -> str:
    told: Iterable[str] = entry.shown_by or (["something shown was made from it"] if entry.needed else ["unreachable"])
    away = f" ({entry.elsewhere} files elsewhere)" if entry.elsewhere else ""
    return ", ".join(told) + away


def _as_json(entry: Held) -> dict[str, object]:
    return {
        "stage": entry.stage, "fingerprint": entry.path.name.rpartition("-")[2], "path": str(entry.path),
        "bytes": entry.size, "age_seconds": round(entry.age), "shown_by": list(entry.shown_by),
        "reachable": entry.needed, "files_elsewhere": entry.elsewhere,
    }  # fmt: skip
