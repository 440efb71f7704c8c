"""What need not be imported to train a model or ask it: of images, plots, shards, torch's compiler; seconds in all.

Each is imported once something of it is called. Some trainings do use the compiler: torch's own activation
checkpointing and its data parallel import it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunemake.later_torch import (
    compiled_when_called,
    optimizer_without_compiler,
    sharded_when_imported,
    shards_when_called,
    shards_when_there,
)

# transformers and XTuner import these whatever is trained, and with them torchvision, scipy and matplotlib.
_OF_IMAGES = {
    "transformers.loss.loss_deformable_detr", "transformers.loss.loss_for_object_detection",
    "transformers.loss.loss_rt_detr", "xtuner.dataset.internvl_dataset", "xtuner.dataset.refcoco_json",
    "xtuner.model.internvl", "xtuner.model.llava",
}  # fmt: skip


def without_torch(model: Path, *, trusted: bool) -> dict[str, str]:
    """Give what keeps transformers from importing torch, which would take most of the time that a tokenizer takes.

    A tokenizer whose model folder holds code of its own, and may run it, is left to import what it wants.
    """
    told = [model / name for name in ("tokenizer_config.json", "config.json")]  # transformers looks into both
    own_code = any(path.is_file() and b'"auto_map"' in path.read_bytes() for path in told)
    return {} if trusted and own_code else {"USE_TORCH": "0", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}


def spec_of(name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Give the spec of a module that is put off, or that would import what is put off; None for all others."""
    if name in _OF_IMAGES:
        return importlib.util.spec_from_loader(name, _Later())
    around = _AROUND.get(name)
    spec = None if around is None else importlib.machinery.PathFinder.find_spec(name, path)
    if around is None or spec is None or spec.loader is None:
        return None
    run = spec.loader.exec_module

    def within(module: types.ModuleType) -> None:
        del _AROUND[name]
        with around(module):
            run(module)

    spec.loader.exec_module = within  # type: ignore[method-assign]
    return spec


class _Later(importlib.abc.Loader):
    """Makes a module whose functions and classes import the real one when they are called."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Have the module answer to any name."""

        def stand_in(name: str) -> Callable[..., Any]:
            if name.startswith("__"):
                raise AttributeError(name)

            def real(*args: Any, **named: Any) -> Any:
                return getattr(_real(module.__name__), name)(*args, **named)

            return real

        module.__getattr__ = stand_in  # type: ignore[method-assign]


def _real(name: str) -> types.ModuleType:
    if name in _OF_IMAGES:
        _OF_IMAGES.discard(name)
        del sys.modules[name]
    return importlib.import_module(name)


@contextmanager
def _names_of_pixels(module: types.ModuleType) -> Iterator[None]:
    """Keep torchvision out of transformers.image_utils, which all models import: it wants one class, for a table."""
    with _not_there("_torchvision_available") as there:
        yield

    def asked(name: str) -> Any:
        if name not in {"pil_torch_interpolation_mapping", "InterpolationMode"} or not there:
            raise AttributeError(name)
        from PIL.Image import Resampling
        from torchvision.transforms import InterpolationMode

        known = InterpolationMode.__members__
        module.InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
        table = {one: known[one.name] for one in Resampling if one.name in known}
        module.pil_torch_interpolation_mapping = table  # type: ignore[attr-defined]
        return getattr(module, name)

    module.__getattr__ = asked  # type: ignore[method-assign]


@contextmanager
def _plot_when_drawn(module: types.ModuleType) -> Iterator[None]:
    """Keep matplotlib out: mmengine begins a plot with every training, and draws nothing in it but images."""
    yield
    kind = module.Visualizer
    begin = kind._initialize_fig

    def later(self: Any, config: Any) -> tuple[Any, Any, Any]:
        own = type(self)._initialize_fig is not later  # that of a subclass, which works on what it is given
        return begin(self, config) if own else (None, _Undrawn(), None)

    kind._initialize_fig = later
    for name in (*_PLOT, "dpi"):
        setattr(kind, name, _OfPlot(name, begin))


_PLOT = ("fig_save_canvas", "fig_save", "ax_save")


class _Undrawn:
    """A visualizer's figure before anything has been drawn."""

    def get_dpi(self) -> None:
        """Answer what the visualizer asks while it is made; it gets the figure's own with the figure."""


class _OfPlot:
    """An attribute of a visualizer for which its plot is begun, unless it is being made."""

    def __init__(self, name: str, begin: Callable[[Any, Any], tuple[Any, Any, Any]]) -> None:
        self._name, self._begin = name, begin

    def __get__(self, visualizer: Any, _: type | None = None) -> Any:
        if visualizer is None:
            return self
        told = vars(visualizer)
        if "dpi" in told and isinstance(told.get("fig_save"), _Undrawn):
            told.update(zip(_PLOT, self._begin(visualizer, visualizer.fig_save_cfg), strict=True))
            if told["dpi"] is None:
                told["dpi"] = told["fig_save"].get_dpi()
        if self._name not in told:
            raise AttributeError(self._name)
        return told[self._name]

    def __set__(self, visualizer: Any, value: Any) -> None:
        vars(visualizer)[self._name] = value


@contextmanager
def _curve_when_called(module: types.ModuleType) -> Iterator[None]:
    """Keep scikit-learn out, wherever it is installed: only answers with the help of a second model need it."""
    with _not_there("_sklearn_available") as there:
        yield

    def roc_curve(*args: Any, **named: Any) -> Any:
        return importlib.import_module("sklearn.metrics").roc_curve(*args, **named)

    if there:
        module.roc_curve = roc_curve  # type: ignore[attr-defined]


@contextmanager
def _not_there(flag: str) -> Iterator[bool]:
    """Have transformers take a library for one that is not installed; give whether it is."""
    from transformers.utils import import_utils

    there = bool(getattr(import_utils, flag))
    setattr(import_utils, flag, False)
    try:
        yield there
    finally:
        setattr(import_utils, flag, there)


_AROUND = {
    "bitsandbytes.backends.default.ops": compiled_when_called,
    "mmengine.optim": optimizer_without_compiler,
    "mmengine.visualization.visualizer": _plot_when_drawn,
    "peft.tuners.tuners_utils": shards_when_there,
    "transformers.generation.candidate_generator": _curve_when_called,
    "transformers.image_utils": _names_of_pixels,
    "transformers.integrations.fsdp": sharded_when_imported,
    "transformers.pytorch_utils": shards_when_called,
}
