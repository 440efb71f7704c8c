"""Conversations of dataset repositories: on Hugging Face's hub, on ModelScope, or in a folder as either gives it."""

from __future__ import annotations

import inspect
import os.path
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunemake.contracts import Context, GeneratorError, Sample
from tunemake_builtins.formats import COLUMNS, ONE_FORMAT, Format
from tunemake_builtins.rows import CHOICE, Row, guess, rows_of, samples_from, schema

Hub = Literal["hf", "modelscope"]
_NAME = re.compile(r"[\w.-]+/[\w.-]+")

REPOSITORY: Mapping[str, Any] = {
    "path": {"type": "string", "minLength": 1, "description": "org/name on the hub, or a folder that holds a copy"},
    "subset": {"type": "string", "minLength": 1, "description": "the subset (configuration), where there are several"},
    "split": {"type": "string", "minLength": 1, "default": "train", "description": "which split"},
    "revision": {
        "type": "string", "minLength": 1,
        "description": "commit, tag or branch on the hub; pin a commit, since what a hub holds may change",
    },
}  # fmt: skip


class _Repository:
    """What both hubs have in common."""

    hub: Hub
    version = "1"
    parameters: Mapping[str, Any] = {**schema(["path"], **REPOSITORY, **COLUMNS, **CHOICE), **ONE_FORMAT}

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files of a folder; of the hub's there are none."""
        return files_in(parameters["path"])

    def downloads(self, parameters: Mapping[str, Any]) -> bool:
        """Say whether it is a hub's dataset and no folder."""
        return not Path(parameters["path"]).is_dir()

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations in a stream; a dataset's own code never runs."""
        shape = Format(parameters)
        rows = repository_rows(self.hub, parameters, context, shape.columns)
        yield from samples_from(rows, shape.sample, parameters, context)
        shape.tell(context)


class HuggingFace(_Repository):
    """A dataset generator: a dataset of Hugging Face's hub."""

    summary = "a dataset of Hugging Face's hub, or a folder that holds one"
    hub: Hub = "hf"


class ModelScope(_Repository):
    """A dataset generator: a dataset of ModelScope."""

    summary = "a dataset of ModelScope, or a folder that holds one"
    hub: Hub = "modelscope"


def files_in(path: str) -> list[Path]:
    """Give the files of a folder of the project, hidden ones left out; none where it is no folder."""
    found = (file for file in sorted(Path(path).rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def repository_rows(
    hub: Hub, parameters: Mapping[str, Any], context: Context, wanted: Sequence[str] | None = None
) -> Iterator[Row]:
    """Give the rows of a split, file by file; takes what REPOSITORY describes from parameters.

    wanted: columns that must be there. A hub's file is fetched into its cache when it is come to. Raises
    GeneratorError where the dataset cannot be found or read.
    """
    path, revision = parameters["path"], parameters.get("revision")
    folder: Path | None = context.root / path
    if not (context.root / path).is_dir():
        if not _NAME.fullmatch(path):
            raise GeneratorError(f"{path}: neither a folder nor a dataset of a hub (org/name)")
        if revision is None:
            context.say(f"{path}: no revision is set, and what the hub holds may change; pin a commit by revision")
        folder = _from_modelscope(path, revision) if hub == "modelscope" else None
    config = _config(path, folder, parameters.get("subset"), revision)
    # What the card says of its tables; a comma is what a table has where nothing is said.
    said = {"delimiter": getattr(config, "sep", ","), "encoding": getattr(config, "encoding", None)}
    table = {name: value for name, value in said.items() if value not in {None, ","}}
    for file in _files_of_split(path, config, parameters.get("split", "train")):
        local, told = _inside(path, folder, file) if folder else _fetched(path, file)
        yield from rows_of(local, told, table, context, wanted)


def _files_of_split(path: str, config: Any, split: str) -> list[str]:
    splits = {str(name): list(map(str, files)) for name, files in (config.data_files or {}).items()}
    if split not in splits:
        raise GeneratorError(f'{path}: no split "{split}"; {guess(split, splits)}')
    return splits[split]


def _config(path: str, folder: Path | None, subset: str | None, revision: str | None) -> Any:
    """Let the package datasets say which files make up the splits of a subset; it reads none of them."""
    try:
        from datasets import load_dataset_builder
    except ImportError:
        raise GeneratorError(_needs(path, "datasets")) from None
    # Releases before 4 can run a dataset's script, and ask for it on the terminal unless told.
    old = "trust_remote_code" in inspect.signature(load_dataset_builder).parameters
    more = {"trust_remote_code": False} if old else {}
    source = str(folder.absolute()) if folder else path
    try:
        return load_dataset_builder(source, subset, revision=None if folder else revision, **more).config
    except Exception as error:  # the package raises many kinds, among them the network's own
        step = "check its files and the subset" if folder else _offline(path, "hf download --repo-type dataset")
        if "script" in str(error):
            step = "read its data files with messages, csv_qa or parquet instead"
        raise GeneratorError(f"{path}: cannot be opened: {_line(error)}; {step}") from error


def _from_modelscope(path: str, revision: str | None) -> Path:
    try:
        from modelscope import dataset_snapshot_download
    except ImportError:
        raise GeneratorError(_needs(path, "modelscope")) from None
    try:
        return Path(dataset_snapshot_download(path, revision=revision))
    except Exception as error:  # the package raises many kinds, among them requests' own
        step = _offline(path, "modelscope download --dataset")
        raise GeneratorError(f"{path}: cannot be fetched: {_line(error)}; {step}") from error


def _inside(path: str, folder: Path, file: str) -> tuple[Path, str]:
    """Give a file of the folder, and its name for messages; a card that names one elsewhere is refused."""
    place = Path(os.path.normpath(file))
    home = Path(os.path.normpath(folder.absolute()))
    if not place.is_relative_to(home):
        raise GeneratorError(f"{path}: its card names a file outside of it: {file}")
    return place, f"{path}/{place.relative_to(home)}"


def _fetched(path: str, file: str) -> tuple[Path, str]:
    """Fetch a file that the hub names as hf://datasets/org/name@commit/file."""
    from huggingface_hub import hf_hub_download

    commit, _, name = file.removeprefix(f"hf://datasets/{path}@").partition("/")
    if not name or commit.startswith("hf:") or ".." in Path(name).parts:
        raise GeneratorError(f"{path}: its card names a file outside of it: {file}")
    try:
        return Path(hf_hub_download(path, name, repo_type="dataset", revision=commit)), f"{path}/{name}"
    except Exception as error:  # the package raises many kinds, among them the network's own
        step = _offline(path, "hf download --repo-type dataset")
        raise GeneratorError(f"{path}/{name}: cannot be fetched: {_line(error)}; {step}") from error


def _needs(path: str, package: str) -> str:
    return f"{path}: needs the package {package}; run {sys.executable} -m pip install {package}"


def _offline(path: str, command: str) -> str:
    name = path.rpartition("/")[2]
    return (
        f"check the name, the revision and the connection; without one, fetch it elsewhere by"
        f' "{command} {path} --local-dir data/{name}" and set path = "data/{name}"'
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
