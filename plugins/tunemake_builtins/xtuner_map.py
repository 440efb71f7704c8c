"""Conversations that one of XTuner's own map functions makes of a dataset's rows."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from tunemake.contracts import Context, GeneratorError, Sample
from tunemake_builtins.conversations import BadRow, Turn, kind, sample_of
from tunemake_builtins.hubs import REPOSITORY, files_in, repository_rows
from tunemake_builtins.rows import CHOICE, FILES, TABLE, files_of, guess, read, samples_from, schema

_TABLE = Path("dataset", "map_fns", "dataset_map_fns", "__init__.py")
_MAPPING = "DATASET_FORMAT_MAPPING"
_IMAGE = "<image>"


class XTunerMap:
    """A dataset generator: rows as XTuner's configs map them, by the name that XTuner gives the function."""

    summary = "rows of files or of a hub through one of XTuner's dataset map functions, such as oasst1 or openorca"
    version = "1"
    parameters: Mapping[str, Any] = {
        **schema(
            ["map"],
            map={
                "type": "string", "minLength": 1,
                "description": "name of the map function in the installed XTuner, such as alpaca, oasst1 or openorca",
            },
            files=FILES,
            hub={"enum": ["hf", "modelscope"], "default": "hf", "description": "where path is looked for"},
            **REPOSITORY, **TABLE, **CHOICE,
        ),
        "oneOf": [{"required": ["files"]}, {"required": ["path"]}],
        "x-message": "expected files, or the path of a dataset, and not both",
    }  # fmt: skip

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files, or those of the dataset's folder."""
        return files_of(parameters["files"]) if "files" in parameters else files_in(parameters["path"])

    def downloads(self, parameters: Mapping[str, Any]) -> bool:
        """Say whether it is a hub's dataset and no folder."""
        return "path" in parameters and not Path(parameters["path"]).is_dir()

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the conversations; what the map function leaves out is counted and told at the end."""
        name = parameters["map"]
        known = names()
        if name not in known:
            raise GeneratorError(f'map: XTuner has no map function "{name}"; {guess(name, known)}')
        mapped = _Mapped(name, _function(name))
        if "files" in parameters:
            rows = read(parameters, context)
        else:
            rows = repository_rows(parameters.get("hub", "hf"), parameters, context)
        yield from samples_from(rows, mapped.sample, parameters, context)
        mapped.tell(context)


def names() -> list[str]:
    """Give the names of the installed XTuner's map functions, read from its source without importing it.

    Raises GeneratorError where there is no XTuner, or where it keeps them elsewhere.
    """
    spec = importlib.util.find_spec("xtuner")
    if spec is None or spec.origin is None:
        raise GeneratorError('map: needs XTuner; run pip install "tunemake[train]"')
    file = Path(spec.origin).parent / _TABLE
    tree = ast.parse(file.read_bytes()) if file.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == _MAPPING:
            value = node.value
            if isinstance(value, ast.Call):
                return [keyword.arg for keyword in value.keywords if keyword.arg]
            if isinstance(value, ast.Dict):
                return [key.value for key in value.keys if isinstance(key, ast.Constant)]  # type: ignore[misc]
    raise GeneratorError(f"map: the installed XTuner has no {_MAPPING}; expected XTuner 0.2.0")


def _function(name: str) -> Callable[[Any], Any]:
    """Import a map function. Where it evaluates a row's text as Python, it is given literals only."""
    from tunemake.cures import install_cures

    install_cures()
    try:
        from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
    except Exception as error:  # XTuner imports torch, transformers and more, and fails with any of them
        raise GeneratorError(f"map: XTuner cannot be imported: {type(error).__name__}: {error}") from error
    found: Callable[[Any], Any] = DATASET_FORMAT_MAPPING[name]
    if not isinstance(found, FunctionType):
        return found
    scope = {**found.__globals__, "eval": ast.literal_eval}
    return FunctionType(found.__code__, scope, name, found.__defaults__, found.__closure__)


class _Mapped:
    """Makes samples of what a map function gives, and counts what it leaves out."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        self._name, self._function = name, function
        self._left_out = self._not_to_learn = 0

    def sample(self, row: Any) -> Sample | None:
        """Give a row's conversation, or None where the function leaves it out; raises BadRow."""
        if not isinstance(row, dict):
            raise BadRow(f"{kind(row)} where an object is expected")
        try:
            conversation = self._function(dict(row))["conversation"]
        except Exception as error:  # noqa: BLE001 - what a row lacks shows in any kind of error
            raise BadRow(f"map {self._name}: {type(error).__name__}: {error}") from None
        if not isinstance(conversation, list):
            raise BadRow(f"map {self._name}: gives {kind(conversation)} for a conversation")
        if not conversation:
            self._left_out += 1
            return None
        sample = sample_of(self._turns(conversation), f"map {self._name}: ")
        self._not_to_learn += sum(turn.get("output_with_loss") is False for turn in conversation)
        return sample

    def tell(self, context: Context) -> None:
        """Tell what was left out, and what XTuner itself would not have learnt."""
        if self._left_out:
            context.say(f"xtuner_map: {self._left_out} rows left out by the map function {self._name}")
        if self._not_to_learn:
            context.say(f"xtuner_map: {self._not_to_learn} answers with a loss of false are learnt all the same")

    def _turns(self, conversation: list[Any]) -> Iterator[Turn]:
        for turn in conversation:
            if not isinstance(turn, dict):
                raise BadRow(f"map {self._name}: gives {kind(turn)} for a turn")
            if turn.get("need_eos_token") is False:
                message = f'map: "{self._name}" gives text to go on with, no questions and answers'
                raise GeneratorError(f"{message}; expected a map function that makes conversations")
            asked = turn.get("input")
            if self._name.startswith("llava") and isinstance(asked, str) and _IMAGE in asked:
                raise BadRow("a question about an image; expected text alone")
            if turn.get("system"):
                yield "system", turn["system"]
            yield "user", asked
            yield "assistant", turn.get("output")
