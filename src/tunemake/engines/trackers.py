"""Where a training's curves are sent beside our own metrics: mmengine's visual backends, by project.toml's names."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from tunemake.faults import Fault

FOLDER = "TUNEMAKE_TRACKING"  # the environment variable that names the folder for what they write
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "swanlab": "swanlab"}


def missing(names: list[str]) -> list[Fault]:
    """Give a fault for each tracker whose package is not installed."""
    return [
        Fault("train.trackers", f"{name} is not installed", next_step=f"pip install {PACKAGES[name]}, or leave it out")
        for name in names
        if find_spec(PACKAGES[name]) is None
    ]


def tracker(name: str, project: str) -> dict[str, Any]:
    """Give the config of a tracker's backend. project: the name that services show."""
    folder = os.environ.get(FOLDER, ".")
    if name == "swanlab":
        import swanlab.integration.mmengine  # noqa: F401 - it registers its backend

        return {"type": "SwanlabVisBackend", "save_dir": folder, "init_kwargs": {"project": project}}
    if name == "wandb":
        return {"type": "WandbVisBackend", "save_dir": folder, "init_kwargs": {"project": project}}
    if name == "mlflow":
        return {"type": "MLflowVisBackend", "save_dir": folder, "exp_name": project}
    return {"type": "TensorboardVisBackend", "save_dir": folder}
