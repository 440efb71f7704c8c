"""What a project leaves to be chosen ("auto"): chosen once, kept in tunemake.lock, and read from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunemake.engines.sizing import FOR
from tunemake.faults import Fault, InputError
from tunemake.lock import CHOSEN, FILE, read_lock
from tunemake.machine import best_precision
from tunemake.project import Project

AUTO = "auto"
PRECISION, PRECISIONS = "train.precision", ("float32", "bfloat16", "float16")


def resolved(projects: list[Project], environment: Mapping[str, str]) -> list[Project]:
    """Give the projects with a value in place of each "auto"; `Project.chosen` names them.

    A machine without a GPU so computes the fingerprints of what was trained on one. Raises InputError for a
    damaged lock.
    """
    asking = [project for project in projects if project.train["precision"] == AUTO]
    if not asking:
        return projects
    kept = _chosen(projects[0].root)
    known = {project.variant.name: kept.get(project.variant.name, {}).get(PRECISION) for project in asking}
    if wrong := sorted({str(value) for value in known.values() if value is not None and value not in PRECISIONS}):
        step = f'delete "{CHOSEN}" from it, or take it from version control'
        raise InputError(Fault(FILE, f"{PRECISION}: no such type", ", ".join(PRECISIONS), ", ".join(wrong), step))
    here = None if all(known.values()) else best_precision(environment)
    return [_with(project, known[project.variant.name] or here) if project in asking else project
            for project in projects]  # fmt: skip


def choices(root: Path) -> list[dict[str, Any]]:
    """Give what earlier builds chose once a base model was there, whatever the variant; raises as `resolved` does."""
    return [{name: value for name, value in chosen.items() if name != PRECISION}
            for chosen in _chosen(root).values() if FOR in chosen]  # fmt: skip


def _chosen(root: Path) -> Mapping[str, Any]:
    """Give what tunemake.lock has chosen, by variant.

    What lies there and is no file keeps no build from being made; the end of the build tells of it.
    """
    lock = read_lock(root) if (root / FILE).is_file() else None
    chosen: Mapping[str, Any] = (lock or {}).get(CHOSEN, {})
    return chosen


def _with(project: Project, precision: str | None) -> Project:
    assert precision is not None
    train = {**project.train, "precision": precision}
    return replace(project, train=train, chosen={**project.chosen, PRECISION: precision})
