"""What only models of images need is imported when it is used, and not before; it is then the real thing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.filterwarnings("default")


def told(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_a_training_of_chats_imports_nothing_for_images():
    code = """
import sys
from tunemake.cures import install_cures
install_cures()
import xtuner.tools.train
import tunemake.engines.xtuner_hooks, tunemake.engines.xtuner_model
print(*[name for name in ("torchvision", "scipy", "matplotlib", "skimage") if name in sys.modules])
"""
    assert told(code) == []


def test_what_is_for_images_is_there_when_it_is_used():
    code = """
import sys
from tunemake.cures import install_cures
install_cures()
import torch
from transformers.loss.loss_utils import LOSS_MAPPING
from xtuner.dataset import RefCOCOJsonDataset
from xtuner.model import LLaVAModel

before = "torchvision" in sys.modules
for used in (LOSS_MAPPING["ForObjectDetection"], RefCOCOJsonDataset, LLaVAModel):
    try:
        used(nothing=1)
    except TypeError as error:
        print(str(error).split("(")[0].split(".")[0])
import xtuner.model.llava, xtuner.dataset.refcoco_json
real = xtuner.model.llava.LLaVAModel, xtuner.dataset.refcoco_json.RefCOCOJsonDataset
print(before, *[isinstance(one, type) for one in real])
"""
    assert told(code) == ["ForObjectDetectionLoss", "RefCOCOJsonDataset", "LLaVAModel", "False", "True", "True"]
