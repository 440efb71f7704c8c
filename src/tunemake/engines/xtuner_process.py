"""Runs one of XTuner's tools in this process, with cures for what its 0.2.0 lacks beside current libraries.

    python -m tunemake.engines.xtuner_process train CONFIG --work-dir DIR
    python -m tunemake.engines.xtuner_process pth_to_hf CONFIG CHECKPOINT DIR

XTuner's own command exits 0 whatever happens; its tools, run this way, give real exit codes.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence

from tunemake.cures import install_cures
from tunemake.engines import fellows, xtuner_environment

TOOLS = {
    "train": "xtuner.tools.train",
    "pth_to_hf": "xtuner.tools.model_converters.pth_to_hf",
    "merge": "xtuner.tools.model_converters.merge",
    "chat": "xtuner.tools.chat",
    "list-cfg": "xtuner.tools.list_cfg",
    "copy-cfg": "xtuner.tools.copy_cfg",
}


def run_tool(tool: str, arguments: Sequence[str]) -> None:
    """Run a tool as `python -m` would, here; ends by returning or by the tool's own exception."""
    if fellows.launched():
        fellows.end_with_launcher()
    install_cures()
    if tool == "train":
        xtuner_environment.shorten()
    if fellows.launched():
        _without_shared_memory()
    # Files that this project itself made are the only checkpoints resumed from; torch would refuse mmengine's
    # history objects in them.
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - as it stands in sys.path
        sys.path.append(here)  # last: a template may name a hook of the project's, no file of which hides a library
    sys.argv = [TOOLS[tool], *arguments]
    runpy.run_module(TOOLS[tool], run_name="__main__", alter_sys=True)
    if fellows.launched():
        _end_together()


def _end_together() -> None:
    """End a process that has done its work, once the others have: gloo's threads, still running at exit, abort it."""
    import torch.distributed

    if torch.distributed.is_initialized():
        fellows.leave()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _without_shared_memory() -> None:
    """Keep DeepSpeed from compiling, for minutes, what lets processes on one CPU exchange numbers a little faster."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # As an attribute of deepspeed.comm the name is torch itself.
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def main() -> None:
    """Take the tool's name from the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in TOOLS:  # noqa: PLR2004 - the program and the tool
        sys.exit(f"usage: tunemake xtuner {{{','.join(TOOLS)}}} ...")
    run_tool(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
