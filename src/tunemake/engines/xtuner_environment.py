"""What mmengine does before every training, made short: it imports torchvision and matplotlib, and asks compilers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from functools import cache, partial
from typing import Any


def shorten() -> None:
    """Have versions logged as they are installed, and figures made when something is drawn.

    To be called before mmengine.runner is imported.
    """
    from mmengine.utils import dl_utils
    from mmengine.visualization import Visualizer

    def drawn_later(self: Any, options: Any, make: Any = Visualizer._initialize_fig) -> tuple[_Drawn, ...]:
        options = {"dpi": 100, **options}  # the only thing of it that is asked for before something is drawn
        whole = cache(partial(make, self, options))
        return _Drawn(whole, 0), _Drawn(whole, 1, get_dpi=lambda: options["dpi"]), _Drawn(whole, 2)

    dl_utils.collect_env, Visualizer._initialize_fig = _environment, drawn_later


class _Drawn:
    """The canvas, the figure or the axes: made when something of it is asked for that is not known."""

    def __init__(self, whole: Callable[[], tuple[Any, ...]], number: int, **known: Any) -> None:
        self._whole, self._number = whole, number
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole()[self._number], name)


def _environment() -> dict[str, str]:
    import torch

    names = ("torch", "torchvision", "transformers", "peft", "mmengine", "xtuner")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"Python": platform.python_version(), "GPUs": ", ".join(devices) or "none", **versions}
