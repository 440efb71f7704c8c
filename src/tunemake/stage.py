"""What a stage is: one kind of work on given values, with what it needs of others and what comes out; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tunemake import models
from tunemake.variants import DEFAULT

# Raise a stage's version when it makes other content of the same inputs: every project then makes it anew. That of
# train goes up with that of tokens where the rows are others: train counts what they are made of, and not them.
VERSIONS = {
    "base": 2, "dataset": 2, "data": 2, "config": 2, "tokens": 1, "train": 1, "baseline": 1, "select": 1,
    "adapter": 1, "merge": 3, "evaluate": 2, "gate": 1, "report": 1, "export": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a stage takes from another.

    files: patterns of the files that it reads, which decide its content; without: patterns of those among them that it
    does not.
    """

    stage: str
    files: tuple[str, ...] = ("**",)
    without: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Say whether it reads a file of that name; nobody reads a log."""

        def fits(patterns: tuple[str, ...]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns)

        return fits(self.files) and not fits(self.without) and name != "log.txt"


CHECKPOINTS = ("iter_*.pth", "iter_*.pth/**")  # DeepSpeed's are folders
MODEL = Need("base", ("model/**",), tuple(f"model/{name}*" for name in models.LEGAL))
# What a tokenizer may read: all but the weights.
TOKENIZER = Need("base", MODEL.files, (*MODEL.without, "model/*.safetensors*", "model/generation_config.json"))


@dataclass(frozen=True)
class Stage:
    """One kind of work on given values.

    name: the task's name. kind: the module under stages/. parameters: the values that decide the content; the stage
    works from this very dict. runtime: values that only decide how it runs. needs: other stages, by role.
    link: where the artifact is shown. outputs: files that must come out; the first is the main one.
    generator: the dataset plugin whose code and inputs count. asked: the probes whose code and inputs count.
    sources: files of the user's that it reads.
    folder: a base model's folder, read in place. titles: parameters as project.toml names them. variant: of which
    it is, the first one where several share it. also: further links that show it, one for each of them.
    """

    name: str
    kind: str
    doc: str
    parameters: Mapping[str, Any]
    link: str
    outputs: tuple[str, ...]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Need] = field(default_factory=dict)
    generator: str | None = None
    asked: tuple[Mapping[str, Any], ...] = ()
    sources: tuple[str, ...] = ()
    folder: str | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    resumes: bool = False
    variant: str = DEFAULT
    also: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """The version of the stage's work."""
        return VERSIONS[self.kind]

    @property
    def heavy(self) -> bool:
        """Whether it runs a model, and so wants a GPU."""
        runs_one = self.kind in {"train", "baseline", "select", "evaluate"}
        return runs_one or (self.kind == "dataset" and "base" in self.needs)

    @property
    def links(self) -> tuple[str, ...]:
        """Every link that shows the artifact."""
        return (self.link, *self.also)
