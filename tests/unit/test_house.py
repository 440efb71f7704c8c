"""The order of the house: a module imports only from those above it, and an up-to-date build imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tunemake"
# Each line may import from the lines above it, never from those below.
ORDER = [
    "contracts",
    "distributions",
    "faults",
    "json_lines",
    "gate",
    "findings",
    "glance",
    "shelves",
    "digests",
    "cluster",
    "job_end",
    "schema",
    "toml_places",
    "launch_fit",
    "variants",
    "project",
    "plugin_files",
    "plugin",
    "plugin_contract",
    "plugins",
    "prompts",
    "chat_templates",
    "seams",
    "samples",
    "questions",
    "languages",
    "leakage",
    "tensors",
    "models",
    "model_folder",
    "model_record",
    "sources",
    "gguf_model",
    "gguf_layout",
    "gguf_tokenizer",
    "gguf_writer",
    "export_formats",
    "ollama",
    "nf4",
    "dequantised_base",
    "lora",
    "lora_changes",
    "merged_weights",
    "nf4_proof",
    "weight_proof",
    "folder_proof",
    "speech_proof",
    "merge_proof",
    "logits_proof",
    "checkpoints",
    "later_torch",
    "later_imports",
    "cures",
    "template_fit",
    "trained_text",
    "data_statistics",
    "training_length",
    "data_findings",
    "leakage_findings",
    "data_verdict",
    "data_figures",
    "data_told",
    "machine",
    "build_size",
    "generation",
    "adapters",
    "examination",
    "staleness",
    "artifacts",
    "comparison",
    "reports",
    "extension",
    "store",
    "holdings",
    "sweep",
    "transfers",
    "remote_records",
    "remote_store",
    "engines",
    "stages",
    "shares",
    "process",
    "job_request",
    "slurm_job",
    "slurm",
    "stage",
    "judging",
    "exporting",
    "reporting",
    "tokenising",
    "graph",
    "withholding",
    "deciding",
    "building",
    "lock",
    "attestation",
    "automatic",
    "loading",
    "model_choice",
    "serving",
    "talking",
    "conversation",
    "web",
    "data_check",
    "checking",
    "plan",
    "doit_state",
    "progress",
    "gating",
    "outcome",
    "interrupts",
    "tasks",
    "commands",
    "arguments",
    "cli",
]  # fmt: skip
MODULES = sorted(SOURCE.rglob("*.py"))


def room(module):
    return module.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(module):
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tunemake":
            inner = node.module.split(".")[1:]
            yield from [inner[0]] if inner else [alias.name for alias in node.names]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(SOURCE)))
def test_a_module_imports_only_from_those_above_it(module):
    if room(module) == "__init__":
        return
    place = ORDER.index(room(module))
    for name in imported_rooms(module):
        if name != "__version__":
            assert ORDER.index(name) <= place, f"{room(module)} imports {name}, which stands below it"


def importers_of(package):
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == package for name in names):
                found.add(room(module))
    return found


def test_each_library_that_shapes_the_house_has_one_importer():
    assert importers_of("jsonschema") <= {"schema", "samples"}
    assert importers_of("doit") == {"tasks", "commands"}
    assert importers_of("mmengine") | importers_of("xtuner") == {"engines"}


def test_loading_the_tasks_imports_nothing_heavy():
    code = "import sys, tunemake.tasks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "xtuner", "datasets", "jsonschema", "numpy", "rich", "jinja2", "fsspec"}
    heavy |= {"huggingface_hub"}
    assert not heavy & set(loaded)


def test_every_module_opens_with_a_sentence():
    for module in MODULES:
        text = module.read_text("utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), module
