"""How each tensor of a merged model comes about: which factors of an adapter go onto which base tensor.

Every adapter tensor that has no place in the base is refused by name, all at once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, ModelError
from tunemake.lora import LoraConfig, read_lora_config
from tunemake.tensors import FLOATS, Tensor, read_header

PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
# The module of the input embedding, and that of the output which is tied to it.
HEADS = {
    "embed_tokens": "lm_head",
    "wte": "lm_head",
    "word_embeddings": "lm_head",
    "tok_embeddings": "output",
    "embed_in": "embed_out",
}


@dataclass(frozen=True)
class Change:
    """How one tensor of the merged model comes about: source + scale · B·A.

    dtype: the base's. source: float values of the base, or of the adapter where it holds the whole tensor.
    a [r, in], b [out, r]: None where nothing is added. transposed: the weight is stored as [in, out].
    four_bits: the source goes through 4 bits first, as it did for the training.
    """

    dtype: str
    source: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    transposed: bool = False
    four_bits: bool = False


def read_changes(
    adapter: Path, base: Mapping[str, Tensor], base_config: Mapping[str, Any]
) -> tuple[dict[str, Change], bool]:
    """Give the changed tensors by name, and whether input and output embeddings are tied no longer.

    ModelError names every adapter tensor that matches no base tensor, does not fit or contradicts the config.
    """
    config = read_lora_config(adapter / "adapter_config.json")
    path = adapter / "adapter_model.safetensors"
    if not path.exists():
        raise ModelError(Fault(str(path), "missing", next_step="save the adapter as safetensors"))
    matching = _Matching(config, path, base, tied_pair(base, base_config))
    for name, tensor in read_header(path).items():
        matching.take(name, tensor)
    return matching.changes()


def tied_pair(base: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Give the names of the input embedding and of the output tied to it, or None where they are not tied."""
    declared = config.get("tie_word_embeddings")
    found = [name for name in base if name.endswith(".weight") and name.split(".")[-2] in HEADS]
    if declared is False or len(found) != 1:
        return None
    head = HEADS[found[0].split(".")[-2]] + ".weight"
    # Undeclared, the architecture's default decides; an output that was saved is then one of its own.
    return (found[0], head) if declared or head not in base else None


class _Matching:
    """Collects adapter tensors, and the faults in them."""

    def __init__(
        self, config: LoraConfig, path: Path, base: Mapping[str, Tensor], tied: tuple[str, str] | None
    ) -> None:
        self.config, self.path, self.base, self.tied = config, path, base, tied
        self.factors: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.wholes: dict[str, Tensor] = {}
        self.embeddings: set[str] = set()
        self.faults: list[Fault] = []

    def take(self, name: str, tensor: Tensor) -> None:
        """Sort one adapter tensor by its name."""
        if not name.startswith(PREFIX):
            self.refuse(name, "does not begin with " + PREFIX)
        elif tensor.dtype not in FLOATS:
            self.refuse(name, f"is {tensor.dtype}, no float")
        elif match := FACTOR.fullmatch(name.removeprefix(PREFIX)):
            module = match["module"]
            self.factors[module][match["linear"] or match["embedding"]] = tensor
            if match["embedding"]:
                self.embeddings.add(module)
        else:
            self.wholes[name.removeprefix(PREFIX)] = tensor

    def refuse(self, name: str, what: str, expected: str | None = None, got: str | None = None) -> None:
        """Note a fault of an adapter tensor."""
        self.faults.append(Fault(str(self.path), f"{name} {what}", expected, got))

    def base_of(self, name: str) -> Tensor | None:
        """Give the base tensor; a tied output is the input embedding, whatever is stored under its name."""
        return self.base.get(self.tied[0] if self.tied and name == self.tied[1] else name)

    def changes(self) -> tuple[dict[str, Change], bool]:
        """Give what read_changes gives."""
        found = dict(self._wholes())
        flipped = {module: self._flipped(module) for module in self.factors}
        self._check_square(flipped)
        for module in self.factors:
            change = self._change(module, found.get(f"{module}.weight"), transposed=bool(flipped[module]))
            if change:
                found[f"{module}.weight"] = change
        untied = bool(self.tied) and any(name in found for name in self.tied or ())
        if self.tied and untied and self.tied[0].count(".") > 2:  # noqa: PLR2004 - model.embed_tokens.weight
            self.refuse(self.tied[0], "is tied to an output whose name cannot be told, and the adapter changes it")
        if self.faults:
            raise ModelError(self.faults)
        if self.tied and untied:
            base = self.base[self.tied[0]]
            for name in self.tied:
                found.setdefault(name, Change(base.dtype, base))
        return found, untied

    def _wholes(self) -> Iterator[tuple[str, Change]]:
        for told, tensor in self.wholes.items():
            name = told.replace(".base_layer.", ".")
            base = self.base_of(name)
            if not self._may_replace(told, name):
                self.refuse(PREFIX + told, "is neither LoRA nor named by modules_to_save or bias")
            elif base is None or base.dtype not in FLOATS:
                self.refuse(PREFIX + told, "matches no tensor of the base model")
            elif base.shape != tensor.shape:
                self.refuse(PREFIX + told, "does not fit the base model", _sides(base), _sides(tensor))
            else:
                yield name, Change(base.dtype, tensor)

    def _may_replace(self, told: str, name: str) -> bool:
        module, _, kind = name.rpartition(".")
        if kind == "bias" and self.config.bias != "none":
            return self.config.bias == "all" or module in self.factors
        if told.endswith(".base_layer.weight"):  # PEFT saves an embedding beside the LoRA on it
            return module in self.factors
        parts = name.split(".")
        parents = [".".join(parts[:end]) for end in range(1, len(parts))]
        return any(parent.endswith(saved) for parent in parents for saved in self.config.modules_to_save)

    def _change(self, module: str, whole: Change | None, *, transposed: bool) -> Change | None:
        """Give the change that a module's two factors make, or None where they have a fault."""
        pair, base = self.factors[module], self.base_of(f"{module}.weight")
        what, expected, got = self._misfit(module, transposed=transposed)
        if what or base is None:
            self.refuse(PREFIX + module, what, expected, got)
            return None
        source = whole.source if whole else base
        return Change(base.dtype, source, pair["A"], pair["B"], self.config.scale(module), transposed)

    def _misfit(self, module: str, *, transposed: bool) -> tuple[str, str | None, str | None]:
        """Give what is wrong with a module's factors, what was expected and what is there; else ""."""
        pair, base = self.factors[module], self.base_of(f"{module}.weight")
        if len(pair) < 2:  # noqa: PLR2004 - A and B
            return "has only one of lora_A and lora_B", None, None
        if base is None or base.dtype not in FLOATS:
            return "matches no tensor of the base model", None, None
        if not self.config.targeted(module):
            return "is not among target_modules", None, None
        if base.dtype == "F64":
            return "goes onto float64 weights, and sums are made in float32", None, None
        rank = self.config.rank(module)
        inner, outer = (-1, -1) if len(base.shape) != 2 else base.shape if transposed else base.shape[::-1]  # noqa: PLR2004 - a matrix
        if pair["A"].shape != (rank, inner) or pair["B"].shape != (outer, rank):
            got = f"A {_sides(pair['A'])} and B {_sides(pair['B'])}"
            return "does not fit", f"rank {rank} for weights {_sides(base)}", got
        return "", None, None

    def _flipped(self, module: str) -> bool | None:
        """Say whether the base stores the module's weight as [in, out]; a square one does not say: None."""
        base, pair = self.base_of(f"{module}.weight"), self.factors[module]
        if module in self.embeddings:
            return True
        if base is None or len(base.shape) != 2 or base.shape[0] == base.shape[1] or len(pair) < 2:  # noqa: PLR2004 - a matrix, A and B
            return None
        return base.shape == (pair["A"].shape[-1], pair["B"].shape[0])

    def _check_square(self, flipped: dict[str, bool | None]) -> None:
        """Settle square weights by fan_in_fan_out, unless the others show that it is wrong."""
        linear = {flip for module, flip in flipped.items() if flip is not None and module not in self.embeddings}
        said = self.config.fan_in_fan_out
        if None not in flipped.values() or (said in linear or not linear):
            flipped.update({module: said for module, flip in flipped.items() if flip is None})
        else:
            self.refuse("fan_in_fan_out", f"is {said}, and the other weights show that it is not so")


def _sides(tensor: Tensor) -> str:
    return "[" + ", ".join(map(str, tensor.shape)) + "]"
