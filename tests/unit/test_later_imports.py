"""What a training need not import is imported when it is used, and not before; it is then the real thing."""

import os
import subprocess
import sys

import pytest

from tunemake.later_imports import without_torch

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
BEGIN = "import sys\nfrom tunemake.cures import install_cures\ninstall_cures()\n"


def told(code, **environment):
    command = [sys.executable, "-c", BEGIN + code]
    around = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=around)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_a_training_of_chats_imports_nothing_that_it_does_not_use():
    code = """
from tunemake.engines import xtuner_environment
xtuner_environment.shorten()
import xtuner.tools.train
import tunemake.engines.xtuner_hooks, tunemake.engines.xtuner_model
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.AdamW([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
from mmengine.visualization import Visualizer
Visualizer.get_instance("it", vis_backends=[dict(type="LocalVisBackend")], save_dir=".")
unwanted = ("torchvision", "scipy", "matplotlib", "skimage", "torch._dynamo", "torch._inductor")
print(*[name for name in unwanted if name in sys.modules])
"""
    assert told(code) == []


SMALL = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
shape = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
def answer():
    ids = model.generate(torch.tensor([[1, 3]]), max_new_tokens=2, do_sample=False, eos_token_id=None, pad_token_id=0)
    return ids.shape[1]
"""


def test_a_model_that_is_asked_imports_nothing_for_several_devices():
    code = """
print(answer(), *[name for name in ("torch.distributed.tensor", "sympy", "torch._dynamo") if name in sys.modules])
"""
    assert told(SMALL + code) == ["4"]


def test_adapters_and_sharded_models_find_what_is_for_several_devices():
    code = """
from peft import LoraConfig, get_peft_model
from transformers.integrations.fsdp import is_fsdp_managed_module
import torch.distributed
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
print(is_fsdp_managed_module(model), "torch.distributed.tensor" in sys.modules)
model._is_fsdp_managed_module = True
print(is_fsdp_managed_module(model), hasattr(torch.distributed, "nothing"), torch.distributed.is_available())
print(torch.distributed.tensor.parallel.ColwiseParallel.__name__, torch.distributed.nn.functional.all_reduce.__name__)
Sharded = torch.distributed.fsdp.FullyShardedDataParallel
del model._is_fsdp_managed_module
print(is_fsdp_managed_module(model), is_fsdp_managed_module(Sharded.__new__(Sharded)), answer())
"""
    found = ["True", "False", "True", "ColwiseParallel", "all_reduce"]
    assert told(SMALL + code) == ["False", "False", *found, "False", "True", "4"]


def test_transformers_parts_a_model_among_devices_as_it_would():
    code = """
from transformers import pytorch_utils
before = "torch.distributed.tensor" in sys.modules
styles = [pytorch_utils.translate_to_torch_parallel_style(one) for one in ("colwise", "rowwise", "colwise_rep")]
print(before, *[type(one).__name__ for one in styles], styles[2].output_layouts[0])
import torch
print(torch.distributed.is_available())
"""
    assert told(code) == ["False", "ColwiseParallel", "RowwiseParallel", "ColwiseParallel", "R", "True"]


def test_bitsandbytes_compiles_nothing_as_it_is_imported(bitsandbytes):
    code = """
import torch
compiled = torch.compile
from bitsandbytes.backends.default import ops
print("torch._dynamo" in sys.modules, torch.compile is compiled, hasattr(ops, "_try_torch_compile"))
"""
    path = os.pathsep.join([str(bitsandbytes), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert told(code, PYTHONPATH=path) == ["False", "True", "True"]


def test_what_is_for_images_is_there_when_it_is_used():
    code = """
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


def test_transformers_finds_torchvision_where_it_reads_images():
    code = """
from transformers import image_utils
from transformers.utils import is_torchvision_available
from PIL.Image import Resampling
before = "torchvision" in sys.modules
modes = image_utils.pil_torch_interpolation_mapping
print(before, is_torchvision_available(), len(modes), modes[Resampling.BICUBIC].value)
print(hasattr(image_utils, "nothing"), image_utils.InterpolationMode.__name__)
"""
    assert told(code) == ["False", "True", "6", "bicubic", "False", "InterpolationMode"]


def test_mmengine_draws_what_it_is_told_to():
    code = """
import copy, pickle
import numpy
from mmengine.visualization import Visualizer
first = Visualizer()
copies = copy.deepcopy(first), pickle.loads(pickle.dumps(first))
print("matplotlib" in sys.modules)
for one in (first, *copies):
    one.set_image(numpy.zeros((20, 30, 3), dtype="uint8"))
    one.draw_bboxes(numpy.array([[5, 5, 15, 15]]), edge_colors="w")
    drawn = one.get_image()
    print(*drawn.shape, drawn.max() > 200, one.dpi == one.fig_save.get_dpi(), type(one.fig_save).__name__)
second = Visualizer(image=numpy.full((4, 6, 3), 200, dtype="uint8"))
print(second.get_image().mean(), hasattr(second, "nothing"))
"""
    drawn = ["20", "30", "3", "True", "True", "Figure"]
    assert told(code) == ["False", *drawn, *drawn, *drawn, "200.0", "False"]


def test_a_visualizer_of_ones_own_keeps_what_it_sets_and_has_its_figure_at_once():
    code = """
from mmengine.visualization import Visualizer
class Sharp(Visualizer):
    def __init__(self, name="visualizer"):
        super().__init__(name)
        self.dpi = 300
class Wide(Visualizer):
    def _initialize_fig(self, config):
        canvas, figure, axes = super()._initialize_fig(config)
        self.wide = 2 * figure.get_dpi()
        return canvas, figure, axes
sharp, wide = Sharp(), Wide()
print(sharp.dpi, sharp.fig_save.get_dpi() == wide.dpi, sharp.dpi, wide.wide == 2 * wide.dpi)
"""
    assert told(code) == ["300", "True", "300", "True"]


def test_scikit_learn_is_imported_where_a_second_model_helps(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    (tmp_path / "sklearn" / "metrics.py").write_text("def roc_curve(one): return one + 1\n")
    (tmp_path / "scikit_learn-1.0.dist-info").mkdir()
    (tmp_path / "scikit_learn-1.0.dist-info" / "METADATA").write_text("Name: scikit-learn\nVersion: 1.0\n")
    code = """
from transformers.generation import candidate_generator
from transformers.utils import is_sklearn_available
print("sklearn" in sys.modules, is_sklearn_available(), candidate_generator.roc_curve(1), "sklearn" in sys.modules)
"""
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert told(code, PYTHONPATH=path) == ["False", "True", "2", "True"]


def test_what_is_to_be_compiled_is_compiled_when_it_is_called():
    code = """
import torch
from tunemake.later_torch import compiled_when_called
seen = []
def backend(graph, inputs):
    seen.append(len(inputs))
    return graph
with compiled_when_called(None):
    @torch.compile(backend=backend)
    def first(x): return x + 1
    second = torch.compile(lambda x: x + 2, backend=backend)
before = list(seen)
print(before, *first(torch.ones(1)).tolist(), *second(torch.ones(1)).tolist(), len(seen))
"""
    assert told(code) == ["[]", "2.0", "3.0", "2"]


OPTIMIZER = """
import torch
import mmengine.optim
def trained(step, **options):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5))
    optimizer = torch.optim.AdamW([weight], lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        weight.pow(2).sum().backward()
        step(optimizer)
    return weight.detach(), weight.requires_grad
"""


def test_an_optimizer_steps_as_torch_made_it_with_its_compiler_and_without():
    code = """
without, _ = trained(lambda optimizer: optimizer.step())
before = "torch._dynamo" in sys.modules
compiled, _ = trained(torch.compile(lambda optimizer: optimizer.step(), backend="eager"))
after, requires = trained(lambda optimizer: optimizer.step())
disabled = vars(torch.optim.Optimizer.zero_grad.__wrapped__)["__dynamo_disable"]
print(before, torch.allclose(without, compiled, atol=1e-5), torch.equal(without, after), requires)
print(getattr(disabled, "_torchdynamo_disable", False))
"""
    assert told(OPTIMIZER + code) == ["False", "True", "True", "True", "True"]


def test_only_a_trusted_tokenizer_with_code_of_its_own_may_import_torch(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    assert without_torch(tmp_path, trusted=True)["USE_TORCH"] == "0"
    config.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert without_torch(tmp_path, trusted=True)["USE_TORCH"] == "0"
    config.write_text('{"auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", null]}}')
    assert without_torch(tmp_path, trusted=False)["USE_TORCH"] == "0"
    assert without_torch(tmp_path, trusted=True) == {}
    config.rename(tmp_path / "config.json")  # where transformers looks next
    assert without_torch(tmp_path, trusted=False)["USE_TORCH"] == "0"
    assert without_torch(tmp_path, trusted=True) == {}
