"""What of torch need not be imported: its compiler, and tensors and models that lie on several devices.

Each is a context in which a module of a library is run that would import it, or ask for it.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any


@contextmanager
def compiled_when_called(_: types.ModuleType) -> Iterator[None]:
    """Leave uncompiled what bitsandbytes has compiled as it is imported: few of these functions are ever called."""
    import torch

    compiled = torch.compile

    def later(model: Any = None, **options: Any) -> Any:
        if not isinstance(model, types.FunctionType):
            return compiled(model, **options)
        made = cache(lambda: compiled(model, **options))

        @wraps(model)
        def call(*args: Any, **named: Any) -> Any:
            return made()(*args, **named)

        return call

    torch.compile = later
    try:
        yield
    finally:
        torch.compile = compiled


@contextmanager
def optimizer_without_compiler(_: types.ModuleType) -> Iterator[None]:
    """Keep out torch's compiler, imported by optimizers to be told to leave their methods alone.

    Each method is as torch made it once the compiler is there.
    """
    import torch

    for method in vars(torch.optim.Optimizer).values():
        if _made_by(torch._compile, method):
            _told_later(method)
    for kind in [one for one in vars(torch.optim).values() if isinstance(one, type)]:
        step = vars(kind).get("step")
        if _made_by(sys.modules[torch.optim.Optimizer.__module__], step):
            setattr(kind, "step", _stepping(step))  # noqa: B010 - not every class has one
    yield


def _made_by(module: types.ModuleType, method: Any) -> bool:
    """Whether a decorator of a module made a method."""
    code = getattr(method, "__code__", None)
    return code is not None and code.co_filename == module.__file__ and hasattr(method, "__wrapped__")


def _compiler_is_there() -> bool:
    return "torch._dynamo" in sys.modules


def _told_later(method: Any) -> None:
    inner, told = method.__wrapped__, "__dynamo_disable"

    def call(*args: Any, **named: Any) -> Any:
        if not _compiler_is_there():
            return inner(*args, **named)
        delattr(inner, told)
        return method(*args, **named)

    setattr(inner, told, call)


def _stepping(method: Any) -> Callable[..., Any]:
    @wraps(method)
    def step(self: Any, *args: Any, **named: Any) -> Any:
        if _compiler_is_there():
            return method(self, *args, **named)
        import torch

        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return method.__wrapped__(self, *args, **named)

    return step


@contextmanager
def shards_when_called(module: types.ModuleType) -> Iterator[None]:
    """Keep out torch's tensors of several devices: transformers.pytorch_utils makes plans of them in one function.

    Others take it for granted that somebody has imported these parts of torch.distributed, and find them still.
    """
    import torch

    there = torch.distributed.is_available
    # Whoever else asks meanwhile, from another thread, is told the truth.
    torch.distributed.is_available = lambda: sys._getframe(1).f_globals is not vars(module) and there()
    try:
        yield
    finally:
        torch.distributed.is_available = there
    if not there():
        return
    translate = module.translate_to_torch_parallel_style

    @wraps(translate)
    def translated(style: str) -> Any:
        from torch.distributed.tensor import Replicate, parallel

        vars(module).update(
            Replicate=Replicate, ColwiseParallel=parallel.ColwiseParallel, RowwiseParallel=parallel.RowwiseParallel
        )
        return translate(style)

    module.translate_to_torch_parallel_style = translated  # type: ignore[attr-defined]
    module._torch_distributed_available = True  # type: ignore[attr-defined]
    if not hasattr(torch.distributed, "__getattr__"):
        torch.distributed.__getattr__ = _part_of_distributed


def _part_of_distributed(name: str) -> types.ModuleType:
    if name not in {"fsdp", "nn", "optim", "tensor"}:
        raise AttributeError(f"module 'torch.distributed' has no attribute {name!r}")
    whole = f"torch.distributed.{name}"
    if whole not in sys.modules:  # where it is, it is being imported, and asks for itself
        importlib.import_module("torch.distributed.tensor.parallel" if name == "tensor" else whole)
    return sys.modules[whole]


class _IsImported:
    """True once a module is imported."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __bool__(self) -> bool:
        return self._name in sys.modules


@contextmanager
def shards_when_there(module: types.ModuleType) -> Iterator[None]:
    """Have PEFT ask whether a weight lies on several devices only where any may."""
    yield
    if getattr(module, "_torch_supports_distributed", False):
        module._torch_supports_distributed = _IsImported("torch.distributed.tensor")  # type: ignore[attr-defined]


@contextmanager
def sharded_when_imported(module: types.ModuleType) -> Iterator[None]:
    """Keep out torch's sharded models, which transformers imports to ask whether a model that answers is one."""
    yield
    is_sharded = module.is_fsdp_managed_module

    @wraps(is_sharded)
    def asked(model: Any) -> bool:
        if "torch.distributed.fsdp" in sys.modules:
            return bool(is_sharded(model))
        return bool(getattr(model, "_is_fsdp_managed_module", False))

    module.is_fsdp_managed_module = asked  # type: ignore[attr-defined]
