"""Finds the files that are data, not code: JSON Schemas and templates."""

from __future__ import annotations

from pathlib import Path

from tunemake.faults import Fault, InputError
from tunemake.glance import look_at

_PACKAGE = Path(__file__).resolve().parent
# In a wheel the shelves lie inside the package; in a checkout beside src/.
_SHIPPED = (_PACKAGE, _PACKAGE.parent.parent)


def shelf_folders(shelf: str, project: Path | None = None) -> list[Path]:
    """Give the folders of a shelf ("schemas", "templates"), the project's own first."""
    roots = ([project] if project is not None else []) + list(_SHIPPED)
    folders = [root / shelf for root in roots]
    for folder in folders:
        look_at(folder)
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def find(shelf: str, name: str, project: Path | None = None) -> Path:
    """Give the path of a shelf's file, the project's own before the one that ships.

    Raises InputError where there is none.
    """
    for folder in shelf_folders(shelf, project):
        look_at(folder / name)
        if (folder / name).is_file():
            return folder / name
    raise InputError(Fault(f"{shelf}/{name}", "no such file", next_step="reinstall tunemake"))
