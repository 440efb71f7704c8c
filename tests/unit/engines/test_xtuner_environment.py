"""What mmengine logs and draws, once it does neither before it has to."""

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


def test_mmengine_draws_when_it_is_asked_to():
    code = """
import numpy as np
import mmengine.runner.runner
from mmengine.visualization import Visualizer
pane = Visualizer("any")
before = "matplotlib" in sys.modules
pane.set_image(np.zeros((40, 60, 3), np.uint8))
pane.draw_bboxes(np.array([[5, 5, 30, 30]]), edge_colors="r")
drawn = pane.get_image()
print(before, *drawn.shape, bool(drawn.any()))
"""
    assert told(code) == ["False", "40", "60", "3", "True"]
