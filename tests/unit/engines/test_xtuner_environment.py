"""What mmengine logs before a training, and what it does not import for that."""

import subprocess
import sys

BEGIN = """
import sys
from tunemake.cures import install_cures
install_cures()
from tunemake.engines import xtuner_environment
xtuner_environment.shorten()
"""


def told(code):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_versions_are_those_installed():
    code = """
import torch
from mmengine.runner.runner import collect_env
told = collect_env()
print(told["torch"].split("+")[0] == torch.__version__.split("+")[0], told["xtuner"], told["GPUs"])
print("torchvision" in sys.modules)
"""
    assert told(code)[:2] == ["True", "0.2.0"]
    assert told(code)[-1] == "False"


def test_a_library_that_is_not_there_by_its_name_is_told_so():
    code = """
import importlib.metadata
own = importlib.metadata.version
def version(name):
    if name == "mmengine":
        raise importlib.metadata.PackageNotFoundError(name)
    return own(name)
importlib.metadata.version = version
from mmengine.runner.runner import collect_env
print(collect_env()["mmengine"], collect_env()["xtuner"])
"""
    assert told(code) == ["?", "0.2.0"]
