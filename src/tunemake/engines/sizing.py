"""Micro-batch and activation checkpointing of a training, chosen from model, length and the device's memory, with why.

What is chosen keeps to the effective batch that is declared. It is chosen once: tunemake.lock holds it, and gives it to
later builds for as long as what it was chosen for is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemake.digests import sha256_of_json
from tunemake.engines.memory import Estimate, Shape, Way, estimate
from tunemake.faults import Fault, InputError
from tunemake.findings import Finding
from tunemake.machine import Memory, size

EFFECTIVE, BATCH, ACCUMULATION = "train.effective_batch", "train.batch_size", "train.accumulation"
CHECKPOINTING, AUTO = "train.activation_checkpointing", "auto"
FOR, WHY = "for", "why"  # what a choice was made for, as a digest, and its reasons
FULL = 16_384  # tokens of an iteration that keep a GPU busy: more gain nothing
LEAST = 4_096  # of them that are worth more than what checkpointing costs, which computes a third more
FULL_CPU = 8  # samples that keep a CPU busy

Choice = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """What a choice is made for.

    train: the table of project.toml. gpus: on all nodes. length: tokens of a row, at most. shape: None where the model
    does not tell it.
    """

    train: Mapping[str, Any]
    gpus: int
    length: int
    shape: Shape | None
    way: Way

    @property
    def share(self) -> int | None:
        """The samples of a step on one device; None where the project gives batch_size and accumulation itself."""
        told = self.train.get("effective_batch")
        return None if told is None else int(told) // self.gpus

    @property
    def asks(self) -> bool:
        """Whether anything is left to be chosen."""
        return self.share is not None or self.train["activation_checkpointing"] == AUTO

    def takes(self, batch: int, *, checkpointing: bool) -> Estimate | None:
        """Give what it takes of a device's memory with so many samples in an iteration."""
        if self.shape is None:
            return None
        return estimate(self.shape, self.way, batch, self.length, checkpointing=checkpointing)


def way_of(train: Mapping[str, Any], *, autocast: bool, fused_loss: bool) -> Way:
    """Say how a training runs. autocast: as the engine has it; fused_loss: liger-kernel is there, on a GPU."""
    half = train["precision"] != "float32"
    lora, targets = train["lora"], train["lora"]["targets"]
    return Way(
        train["method"], 16 if half else 32, autocast=autocast,
        fused_loss=fused_loss and half and not autocast and not _gathers(train.get("deepspeed")),
        shared=not autocast,
        rank=0 if train["method"] == "full" else lora["r"],
        targets=targets if isinstance(targets, str) else tuple(targets),
        dropout=0 if train["method"] == "full" else lora["dropout"],
    )  # fmt: skip


def _gathers(deepspeed: Any) -> bool:
    """Say whether DeepSpeed's settings are ZeRO-3's, or a file that may be: there a model keeps its own layers."""
    if isinstance(deepspeed, Mapping):
        return bool(deepspeed.get("zero_optimization", {}).get("stage") == 3)  # noqa: PLR2004 - DeepSpeed's own number
    return deepspeed is not None and (deepspeed.startswith("zero3") or deepspeed.endswith(".json"))


def made_for(values: Mapping[str, Any], model: str) -> str:
    """Give the digest of what a choice is made for. values: parameters of the config stage; model: its digest."""
    names = (
        "method", "precision", "effective_batch", "batch_size", "accumulation", "activation_checkpointing", "lora",
        "deepspeed",
    )  # fmt: skip
    train = {name: values["train"][name] for name in names if name in values["train"]}
    told = {name: values.get(name) for name in ("data", "gpus", "memory", "template")}
    told |= {name: values[name] for name in ("nodes", "trainings_per_gpu") if name in values}
    return sha256_of_json({"model": model, "train": train, **told})[:12]


def choose(asked: Training, memory: Memory) -> Choice:
    """Choose what the project leaves open; {} where it leaves nothing, and reasons beside what it does.

    Raises InputError where an effective batch is to be parted for a device that is not known.
    """
    if not asked.asks:
        return {}
    if asked.share is not None and memory.size is None and asked.shape is not None:
        step = "say machine.memory, in GB; or declare batch_size and accumulation in its place"
        what = "the device that trains is not here, so what fits it cannot be told"
        raise InputError(Fault(EFFECTIVE, what, next_step=step))
    batch, checkpointing = _fitting(asked, memory)
    found: dict[str, Any] = {}
    if asked.share is not None:
        found |= {BATCH: batch, ACCUMULATION: asked.share // batch}
    if asked.train["activation_checkpointing"] == AUTO:
        found[CHECKPOINTING] = checkpointing
    return found | {WHY: _why(asked, memory, batch, checkpointing=checkpointing)}


def findings(asked: Training, memory: Memory, choice: Choice) -> Iterator[Finding]:
    """Tell where even the least that can be chosen takes more than there is."""
    if WHY not in choice or memory.size is None:
        return
    batch = int(choice.get(BATCH, asked.train.get("batch_size", 1)))
    on = bool(choice.get(CHECKPOINTING, asked.train["activation_checkpointing"] is True))
    taken = asked.takes(batch, checkpointing=on)
    if taken is not None and taken.total > memory.size:
        step = "a smaller data.max_length, method qlora, or a device with more"
        fault = Fault(
            "train", "an iteration takes more memory than there is", size(memory.size), size(taken.total), step
        )
        yield Finding("warning", "memory", fault)


def kept(asked: Training, choices: Sequence[Choice], made: str) -> Choice | None:
    """Give the choice of tunemake.lock that was made for this; None where there is none.

    Raises InputError where it is none that can be kept to.
    """
    found = next((choice for choice in choices if choice.get(FOR) == made), None)
    if found is None or not asked.asks:
        return None
    wanted = {FOR, WHY, *([BATCH, ACCUMULATION] if asked.share is not None else [])}
    wanted |= {CHECKPOINTING} if asked.train["activation_checkpointing"] == AUTO else set()
    whole = found.keys() == wanted and isinstance(found[WHY], str)
    whole = whole and isinstance(found.get(CHECKPOINTING, False), bool)
    if whole and asked.share is not None:
        numbers = [found[BATCH], found[ACCUMULATION]]
        whole = all(type(number) is int and number > 0 for number in numbers)
        whole = whole and numbers[0] * numbers[1] == asked.share
    if not whole:
        step = 'delete "chosen" from it, or take it from version control'
        raise InputError(Fault("tunemake.lock", f"chosen for {made}: not what can be kept to", next_step=step))
    return found


def unlike(record: Mapping[str, Any] | None, choices: Sequence[Choice]) -> str | None:
    """Say what the lock has chosen otherwise than a recorded config; None where nothing.

    choices: all of the lock's. Variants may have chosen differently for the same: any of these will do.
    """
    mine = (record or {"facts": {}})["facts"].get("chosen")
    there = [choice for choice in choices if mine is not None and choice.get(FOR) == mine[FOR]]
    if not there or mine in there:
        return None
    names = [name for name in there[0] if there[0][name] != mine.get(name) and name not in {FOR, WHY}]
    return ", ".join(f"{name}: {mine.get(name)} → {there[0][name]}" for name in names) or "chosen for another device"


def settled(values: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """Give the values of the config stage with what was chosen in place; what is still open, as one sample a time."""
    train, declared = dict(values["train"]), list(values["declared"])
    if (whole := train.pop("effective_batch", None)) is not None:
        train |= {"batch_size": choice.get(BATCH, 1), "accumulation": choice.get(ACCUMULATION, whole)}
        # A config of XTuner's own takes only what is declared.
        declared = [name for name in declared if name != EFFECTIVE] + [BATCH, ACCUMULATION] * (EFFECTIVE in declared)
    if train["activation_checkpointing"] == AUTO:
        train["activation_checkpointing"] = choice.get(CHECKPOINTING, False)
    why = {"why": " ".join(choice[WHY].split())} if WHY in choice else {}
    return {**values, "train": train, "declared": declared, **why}


def parts(record: Mapping[str, Any] | None) -> dict[str, int]:
    """Give batch_size and accumulation as a config's record has them chosen; {} where the project gives them."""
    chosen = (record or {"facts": {}})["facts"].get("chosen", {})
    return {name.rpartition(".")[2]: chosen[name] for name in (BATCH, ACCUMULATION) if name in chosen}


def batches(train: Mapping[str, Any], gpus: int, choice: Choice) -> dict[str, Any]:
    """Give a train table with batch_size and accumulation; where they are not chosen yet, as if all went at once."""
    if "effective_batch" not in train:
        return dict(train)
    share = max(1, train["effective_batch"] // gpus)
    return {**train, "batch_size": choice.get(BATCH, share), "accumulation": choice.get(ACCUMULATION, 1)}


def _fitting(asked: Training, memory: Memory) -> tuple[int, bool]:
    """Give the samples of an iteration and whether their activations are computed twice."""
    sizes, told = list(_sizes(asked, memory)), asked.train["activation_checkpointing"]
    fitting = {on: next((n for n in sizes if _fits(asked, memory, n, checkpointing=on)), None) for on in (False, True)}
    if told != AUTO:
        return fitting[bool(told)] or sizes[-1], bool(told)
    plain, saving = fitting[False], fitting[True]
    if plain is not None and (plain == sizes[0] or plain * asked.length >= LEAST):
        return plain, False
    if saving is None:
        return sizes[-1], True
    return (plain, False) if plain == saving else (saving, True)


def _sizes(asked: Training, memory: Memory) -> Iterator[int]:
    """Give how many samples an iteration may have, the most first."""
    if asked.share is None:
        yield asked.train["batch_size"]
        return
    most = max(1, FULL // asked.length) if memory.of_gpu else FULL_CPU
    yield from (number for number in range(min(most, asked.share), 0, -1) if asked.share % number == 0)


def _fits(asked: Training, memory: Memory, batch: int, *, checkpointing: bool) -> bool:
    taken = asked.takes(batch, checkpointing=checkpointing)
    return taken is None or memory.size is None or taken.total <= memory.size


def _why(asked: Training, memory: Memory, batch: int, *, checkpointing: bool) -> str:
    """Say it in one line. Free memory is told only where it is too little: it is another each time."""
    accumulation = asked.train.get("accumulation", 1) if asked.share is None else asked.share // batch
    many = f" × {asked.gpus} devices" if asked.gpus > 1 else ""
    told = f"batch_size {batch} × accumulation {accumulation}{many} (effective {batch * accumulation * asked.gpus})"
    twice = "on" if checkpointing else "off"
    taken = asked.takes(batch, checkpointing=checkpointing)
    if taken is None:
        return f"{told}: no estimate, since config.json does not tell sizes; activation checkpointing {twice}"
    there = memory.size
    if there is None:
        return f"{told}: about {size(taken.total)}, of a device that is not here; activation checkpointing {twice}"
    of = f" of {size(there)}" if memory.of_gpu or taken.total > there else ""
    over = ", more than there is" if taken.total > there else ""
    without = asked.takes(batch, checkpointing=False)
    if checkpointing and without is not None:
        twice += f" (off: {size(without.total)})"
    return f"{told}: about {size(taken.total)}{of}{over} ({taken.told()}); activation checkpointing {twice}"
