"""What the state machine of the truth edits: the values of a project, and the files that they stand for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import light_model

PLUGIN = """from pathlib import Path

import words
from pack.inner import close

TAIL = "{tail}"


def asked(number, answer):
    user, assistant = (("user", f"{{number}}"), ("assistant", answer))
    return {{"messages": [{{"role": role, "content": content}} for role, content in (user, assistant)]}}


class Lines:
    summary, version = "a sample a line", "1"
    parameters = {{"type": "object", "properties": {{"file": {{"type": "string"}}, "mark": {{"type": "string"}}}}}}

    def inputs(self, parameters):
        return [Path(parameters["file"])]

    def samples(self, parameters, context):
        for number, line in enumerate((context.root / parameters["file"]).read_text().splitlines()):
            if line.endswith("z"):
                context.bad(f"{{parameters['file']}}:{{number}}", "ends in z", line)
                continue
            answer = line + parameters["mark"] + words.WORD + close() + TAIL + str(context.seed)
            yield asked(number, answer)


class Counted:
    summary, version = "numbers", "1"
    parameters = {{"type": "object", "properties": {{"count": {{"type": "integer"}}}}}}

    def samples(self, parameters, context):
        for number in range(parameters["count"]):
            answer = words.WORD + TAIL
            yield asked(number, answer)
"""
INNER = 'from .end import END\n\n\ndef close():\n    return "{inner}" + END\n'
_LINES = 'parameters = { file = "in/lines.txt", mark = "%s" }'
SPECS = {
    "lines": 'generator = "lines"\n' + _LINES % "!",
    "marked": 'generator = "lines"\n' + _LINES % "?",
    "skipping": 'generator = "lines"\non_bad = "skip"\n' + _LINES % "!",
    "other": 'generator = "lines"\nparameters = { file = "in/other.txt", mark = "!" }',
    "three": 'generator = "counted"\nparameters = { count = 3 }',
    "four": 'generator = "counted"\nparameters = { count = 4 }',
    "csv": 'generator = "csv_qa"\nparameters = { files = ["in/qa.csv"] }',
    "system": 'generator = "csv_qa"\nparameters = { files = ["in/qa.csv"], system = "!" }',
    "mixed": 'generator = "mix"\nparameters = { parts = [ { generator = "csv_qa", count = 3, '
    'parameters = { files = ["in/qa.csv"] } }, { generator = "counted", count = 2, parameters = { count = 4 } } ] }',
}  # fmt: skip
OWN = {"lines", "marked", "skipping", "other", "three", "four", "mixed"}
VARIANTS = {
    "none": "",
    "rates": "[variants.a]\ntrain.lr = 1e-3\n[variants.b]\ntrain.lr = 2e-3\n",
    "seeds": "[variants.a]\nproject.seed = 1\n[variants.b]\nproject.seed = 2\n",
    "shares": '[matrix]\n"data.held_out" = [0, 0.2]\n',
}  # fmt: skip
LETTERS = ("tail", "word", "inner", "end", "lines", "other", "qa", "model")


@dataclass(frozen=True)
class Values:
    """What the project declares, and the letter that each of its other files holds."""

    seed: int = 1
    held_out: str = "0.2"
    format: str = "json"
    name: str = "truth"
    lr: str = "1e-3"
    variants: str = "none"
    datasets: tuple[tuple[str, str], ...] = (("one", "lines"), ("two", "csv"))
    letters: dict[str, str] = field(default_factory=lambda: dict.fromkeys(LETTERS, "a"))

    def with_letter(self, name: str, letter: str) -> Values:
        """Give these values with another letter in one of the files."""
        return replace(self, letters={**self.letters, name: letter})

    def with_dataset(self, name: str, spec: str | None) -> Values:
        """Give these values with a dataset added, changed or (None) left out; the last one stays."""
        kept = dict(self.datasets)
        kept.pop(name, None) if spec is None else kept.__setitem__(name, spec)
        return replace(self, datasets=tuple(kept.items())) if kept else self

    def files(self) -> dict[str, str]:
        """Give the project's files; each letter changes no size."""
        of = self.letters
        lines = "".join(f"line {number} {of['lines']}\n" for number in range(9))
        return {
            "project.toml": self._toml(),
            "dodo.py": "from tunemake.tasks import DOIT_CONFIG, task_tunemake\n",
            "own.py": PLUGIN.format(tail=of["tail"]),
            "words.py": f'WORD = "{of["word"]}"\n',
            "pack/__init__.py": "",
            "pack/inner.py": INNER.format(inner=of["inner"]),
            "pack/end.py": f'END = "{of["end"]}"\n',
            "in/lines.txt": lines,
            "in/other.txt": "".join(f"{of['other']} {number}\n" for number in range(5)),
            "in/qa.csv": "question,answer\n" + "".join(f"q{number},{of['qa']}{number}\n" for number in range(7)),
            "models/tiny/LICENSE": of["model"] + "\n",
            "models/tiny/generation_config.json": json.dumps({"top_k": ord(of["model"])}),
        }  # fmt: skip

    def _toml(self) -> str:
        own = 'plugins = ["own.py"]\n' if any(spec in OWN for _, spec in self.datasets) else ""
        datasets = "".join(f"[datasets.{name}]\n{SPECS[spec]}\n" for name, spec in self.datasets)
        return (
            f'{own}[project]\nname = "{self.name}"\nseed = {self.seed}\n'
            f'[model]\nsource = "models/tiny"\nprompt_template = "chatml"\n{datasets}'
            f'[data]\nheld_out = {self.held_out}\nformat = "{self.format}"\nmax_length = 64\n'
            f"[train]\nsteps = 2\nlr = {self.lr}\n{VARIANTS[self.variants]}"
        )


def decided(values: Values, digests: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Give, by link, what an artifact of a project without variants stands on, as far as it changes here."""
    of = values.letters
    code = [of[name] for name in ("tail", "word", "inner", "end")]
    read = {"lines": "lines", "marked": "lines", "skipping": "lines", "other": "other"}
    for name, spec in values.datasets:
        inputs = [of["qa"]] if spec in {"csv", "system", "mixed"} else [of[read[spec]]] if spec in read else []
        yield f"build/default/datasets/{name}", f"{spec} {values.seed} {inputs} {code if spec in OWN else ''}"
    samples = [(name, digests[f"build/default/datasets/{name}"]["samples.jsonl"]) for name, _ in values.datasets]
    yield "build/default/data", f"{samples} {values.held_out} {values.seed} {values.format}"
    yield "build/default/config", f"{values.name} {values.seed} {values.lr} {values.format} {of['model']}"
    yield "build/base/tiny", f"model {of['model']}"


def write_model(folder: Path, template: Path) -> None:
    """Write the base model, made once at `template`, into a project."""
    if not template.exists():
        light_model.write_light_model(template)
    shutil.copytree(template, folder / "models" / "tiny")


def write(folder: Path, files: dict[str, str], how: str = "plain") -> None:
    """Write what is not there yet or another.

    how: "plain"; "stat" puts the time of change back; "rename" replaces the file by another one with the old time.
    """
    for name, text in files.items():
        path = folder / name
        before = path.stat() if path.exists() else None
        if before is not None and path.read_text() == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.with_name(f".{path.name}.new") if how == "rename" else path
        place.write_text(text)
        if before is not None and how != "plain":
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
        place.replace(path)
