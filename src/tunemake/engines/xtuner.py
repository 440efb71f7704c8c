"""The only module that knows XTuner: its config, its command, its checkpoints. Imports nothing heavy."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake import prompts, schema, shelves
from tunemake.faults import Fault, InputError

TEMPLATE = "xtuner/config.py.jinja"
CONFIG, DECIDES = "train.py", "decides.py"
METRICS, ANSWERS = "metrics.jsonl", "answers.jsonl"


def render_config(values: Mapping[str, Any], project: Path) -> str:
    """Render a complete XTuner config from values (see stages/config.py for their names).

    Raises InputError where the template is wrong: undefined names, syntax, or Python that does not parse.
    """
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        loader=jinja2.FileSystemLoader(shelves.shelf_folders("templates", project)),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # it writes Python, not HTML; every value goes through `py`
    )  # fmt: skip
    environment.filters["py"] = repr
    template = {**values, "prompt_template": prompts.as_xtuner(values["prompt_template"])}
    try:
        text = environment.get_template(TEMPLATE).render(template)
        ast.parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(Fault(f"templates/{TEMPLATE}", str(error), line=error.lineno)) from None
    except jinja2.TemplateError as error:
        raise InputError(Fault(f"templates/{TEMPLATE}", str(error))) from None
    except SyntaxError as error:
        fault = Fault(f"templates/{TEMPLATE}", f"gives Python that does not parse: {error.msg}", line=error.lineno)
        raise InputError(fault) from None
    return re.sub(r"\n{3,}", "\n\n", text)


def deciding_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values with all that only decides how training runs set to their defaults, and names to none.

    A config rendered with them changes exactly when the weights may; what model and data hold is digested apart.
    """
    shape = schema.load_schema("project.schema.json")["properties"]["train"]
    names = dict.fromkeys(("project", "model", "model_path", "data_path"), "")
    return {**values, **names, "train": schema.reset("run", values["train"], shape)}


def train_command(config: Path, work: Path, resume: Path | None) -> list[str]:
    """Give the command that trains in `work`, from a checkpoint or from the start."""
    command = [sys.executable, "-m", "tunemake.engines.xtuner_process", "train", str(config), "--work-dir", str(work)]
    return command + (["--resume", str(resume)] if resume is not None else [])


def checkpoints(folder: Path) -> list[Path]:
    """List a folder's checkpoints, iter_N.pth, by N."""
    found = [path for path in folder.glob("iter_*.pth") if re.fullmatch(r"iter_\d+\.pth", path.name)]
    return sorted(found, key=iteration_of)


def iteration_of(checkpoint: Path) -> int:
    """Give N of iter_N.pth."""
    return int(checkpoint.stem.removeprefix("iter_"))


def newest_whole_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """Find the newest checkpoint that is whole; set torn ones aside as *.torn and name them.

    A checkpoint is a zip file whose directory stands at its end and which keeps a CRC of every member: one cut short
    or overwritten is seen without unpickling it.
    """
    torn: list[Path] = []
    for checkpoint in reversed(checkpoints(folder)):
        if _is_whole(checkpoint):
            return checkpoint, torn
        aside = checkpoint.with_suffix(".pth.torn")
        checkpoint.rename(aside)
        torn.append(aside)
    return None, torn


def remove_litter(folder: Path) -> None:
    """Remove what mmengine leaves beside the checkpoints: a copy of the config and a folder of logs a run.

    They repeat the config and the log that are kept, with this machine's paths and times in them.
    """
    (folder / CONFIG).unlink(missing_ok=True)
    for path in folder.glob("*_*"):
        if re.fullmatch(r"\d{8}_\d{6}", path.name):
            shutil.rmtree(path)


def _is_whole(checkpoint: Path) -> bool:
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # noqa: BLE001 - damaged bytes mean anything to zipfile, and it raises as much
        return False
