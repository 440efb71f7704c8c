"""Which model to talk to: base, adapter on base, a checkpoint, merged, or any model folder; and loading it."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunemake.adapters import load_whole, merge_for_good
from tunemake.chat_templates import resolved
from tunemake.digests import DIGESTS, Digests
from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.generation import Answers
from tunemake.graph import base_link
from tunemake.model_record import read_model_record
from tunemake.models import MODEL_RECORD
from tunemake.plugins import Plugins
from tunemake.project import FILE, Project, load_variants

_FROM_TOKENIZER = {"from_tokenizer": True}


@dataclass(frozen=True)
class Choice:
    """A model to talk to.

    name: for menus, such as "default", "r8 at iter_40" or "base". folder: a Hugging Face model folder. adapter: a PEFT
    folder to be put on it, or None. checkpoint: one of XTuner's, whose weights are put on it, or None. lora: what the
    training declares of its adapter; None where all weights were trained. template: the prompt template.
    """

    name: str
    folder: Path
    template: Mapping[str, Any]
    trust_remote_code: bool = False
    adapter: Path | None = None
    checkpoint: Path | None = None
    lora: Mapping[str, Any] | None = None

    def load(self) -> Answers:
        """Load it; raises ModelError or StageError for what cannot be loaded."""
        model = Answers.load(self.folder, self.template, trust_remote_code=self.trust_remote_code)
        if self.adapter is not None:
            merge_for_good(model, self.adapter)
        elif self.checkpoint is not None and self.lora is not None:
            from tunemake.stages.adapter import write_adapter

            with tempfile.TemporaryDirectory() as folder:
                write_adapter(self.checkpoint, self.lora, "base", Path(folder))
                merge_for_good(model, Path(folder))
        elif self.checkpoint is not None:
            load_whole(model, self.checkpoint)
        return model


class Models:
    """The models at hand for a project's folder, or for none. Raises ProjectError for a project that is wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _variants(self) -> dict[str, Project]:
        if not (self.root / FILE).exists():
            return {}
        # One of XTuner's own configs trains with a prompt template of its own, unless another is declared.
        told = [
            one.with_values(xtuner.own_values(xtuner.config_template(one.train))) for one in load_variants(self.root)
        ]
        return {project.variant.name: project for project in told}

    def all(self) -> list[Choice]:
        """Give every model that is built: of each variant the merged one and its checkpoints, and the base."""
        found = []
        for name in self._variants:
            if (self._build(name) / "merged" / "config.json").exists():
                found.append(self._merged(name))
            found += [self._at(name, path) for path in xtuner.checkpoints(self._build(name) / "train")]
        bases = {base_link(project): name for name, project in self._variants.items()}
        found += [self._base(name) for link, name in bases.items() if (self.root / link / "model").exists()]
        return found

    def choose(self, what: str | None = None, *, base: bool = False, checkpoint: str | None = None) -> Choice:
        """Give a model by a variant's name or a folder; by default the first variant's merged one.

        base: the base model of it instead. checkpoint: one of its training instead, as "iter_40", "40" or "last".
        Raises InputError with what is there instead.
        """
        if what is not None and what not in self._variants:
            return self._folder(Path(what))
        if not self._variants:
            raise InputError(Fault(FILE, "not found", expected="a project here, or the name of a model's folder"))
        name = what or next(iter(self._variants))
        if base:
            return self._existing(self._base(name))
        if checkpoint is not None:
            return self._checkpoint(name, checkpoint)
        return self._existing(self._merged(name))

    def to_serve(self, names: Sequence[str]) -> list[Choice]:
        """Give the models named, variants or folders; by default the merged one of each variant that is built.

        Where several variants changed the same base by adapters, it is that base with the adapter of each, so that it
        need be loaded only once. Raises InputError where there is none.
        """
        built = [name for name in self._variants if (self._build(name) / "merged" / "config.json").exists()]
        chosen = [self.choose(name) for name in dict.fromkeys(names or built)] or [self.choose()]
        adapted = [self._adapted(one.name) for one in chosen if one.name in self._variants]
        several = Counter(one.folder.resolve() for one in adapted if one is not None)
        by_name = {one.name: one for one in adapted if one is not None and several[one.folder.resolve()] > 1}
        # A folder goes by its own name: where it lies is nobody's business.
        named = [by_name.get(one.name) or replace(one, name=Path(one.name).name or one.name) for one in chosen]
        if twice := [name for name, count in Counter(one.name for one in named).items() if count > 1]:
            raise InputError(Fault(twice[0], "several models have this name", next_step="serve one of them"))
        return named

    def _adapted(self, name: str) -> Choice | None:
        """Give a variant as its base and adapter; None where it has none."""
        base, adapter = self._base(name), self._build(name) / "adapter"
        if self._variants[name].train["method"] == "full" or not (adapter / "adapter_config.json").exists():
            return None
        return replace(base, name=name, adapter=adapter) if (base.folder / "config.json").exists() else None

    def variant_of(self, choice: Choice) -> str | None:
        """Give the variant that a model was trained for; None for a base model, and for one from elsewhere."""
        for name in self._variants:
            build = self._build(name)
            if choice.checkpoint is not None and choice.checkpoint.is_relative_to(build):
                return name
            shown = choice.folder if choice.adapter is None else choice.adapter
            made = build / ("merged" if choice.adapter is None else "adapter")
            if choice.checkpoint is None and made.exists() and shown.resolve() == made.resolve():
                return name
        return None

    def base_of(self, choice: Choice) -> Choice:
        """Give the base model of a trained one. Raises InputError where none is known, and for the base itself."""
        name = self.variant_of(choice)
        if name is None:
            raise InputError(Fault(choice.name, "no base model to compare it with", next_step="choose a trained model"))
        return self._existing(self._base(name))

    def failed_gate(self, choice: Choice) -> bool:
        """Say whether a merged model, or its adapter, failed its gate when it was last asked."""
        name = self.variant_of(choice)
        verdict = self._build(name or "") / "gate" / "gate.json"
        if name is None or choice.checkpoint is not None or not verdict.exists():
            return False
        return json.loads(verdict.read_text("utf-8")).get("passed") is False

    def xtuner_command(self, choice: Choice) -> str | None:
        """Give how XTuner's own chat talks to a merged model of the project; None for others."""
        name = self.variant_of(choice)
        if name is None or choice.adapter is not None or choice.checkpoint is not None:
            return None
        return xtuner.chat_command(f"build/{name}/merged", choice.template)

    def _checkpoint(self, name: str, told: str) -> Choice:
        kept = xtuner.checkpoints(self._build(name) / "train")
        wanted = f"iter_{told.removeprefix('iter_').removesuffix('.pth')}"
        found = kept[-1:] if told == "last" else [path for path in kept if path.stem == wanted]
        if not found:
            there = ", ".join(path.stem for path in kept) or "none"
            raise InputError(Fault(told, "no such checkpoint", got=f"kept: {there}", next_step="run doit train"))
        return self._at(name, found[0])

    def _folder(self, folder: Path) -> Choice:
        whole = (self.root / folder).resolve()
        if os.path.exists(whole / "adapter_config.json"):  # noqa: PTH110 - Path's raises for a name that is too long
            return self._with_adapter(folder, whole)
        if not os.path.exists(whole / "config.json"):  # noqa: PTH110
            step = did_you_mean(str(folder), self._variants) or "name a variant, or a model's folder"
            raise InputError(Fault(str(folder), "no model here", next_step=step))
        template = dict(_FROM_TOKENIZER)
        if (whole / MODEL_RECORD).exists():
            template = read_model_record(whole).get("template", template)
        elif self._variants:
            template = self._template(next(iter(self._variants.values())))
        return Choice(str(folder), whole, resolved(template, whole), self._trusts(whole))

    def _with_adapter(self, folder: Path, whole: Path) -> Choice:
        if not self._variants:
            raise InputError(Fault(str(folder), "an adapter, and no base model is known for it", next_step=(
                "run this in the project that it was trained in, or name a merged model")))  # fmt: skip
        name = next((one for one in self._variants if whole.is_relative_to(self._build(one).resolve())), None)
        base = self._existing(self._base(name or next(iter(self._variants))))
        return Choice(str(folder), base.folder, base.template, base.trust_remote_code, adapter=whole)

    def _merged(self, name: str) -> Choice:
        base = self._base(name)
        return Choice(name, self._build(name) / "merged", base.template, base.trust_remote_code)

    def _base(self, name: str) -> Choice:
        project = self._variants[name]
        folder = self.root / base_link(project) / "model"
        template = self._template(project)
        # Before the base is there its own template is not known; nothing can be loaded then either.
        told = resolved(template, folder) if folder.exists() else template
        return Choice("base", folder, told, project.model["trust_remote_code"])

    def _at(self, name: str, checkpoint: Path) -> Choice:
        base, project = self._base(name), self._variants[name]
        lora = None if project.train["method"] == "full" else project.train["lora"]
        title = f"{name} at {checkpoint.stem}"
        return Choice(title, base.folder, base.template, base.trust_remote_code, checkpoint=checkpoint, lora=lora)

    def _existing(self, choice: Choice) -> Choice:
        if not (choice.folder / "config.json").exists():
            place = choice.folder.relative_to(self.root)
            raise InputError(Fault(str(place), "no model here", next_step="run doit, or name a model's folder"))
        return choice

    def _template(self, project: Project) -> dict[str, Any]:
        plugins = Plugins(self.root, project.plugins, Digests(self.root / DIGESTS))
        return plugins.prompt_template(project.model["prompt_template"])

    def _trusts(self, folder: Path) -> bool:
        """Say whether a folder's own code may run: where it was built here, on a base that the project trusts."""
        return any(
            project.model["trust_remote_code"]
            for name, project in self._variants.items()
            if any(folder == place.resolve() for place in (self._build(name) / "merged", self._base(name).folder))
        )

    def _build(self, name: str) -> Path:
        return self.root / "build" / name
