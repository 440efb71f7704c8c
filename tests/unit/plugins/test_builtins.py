"""What holds for every generator that ships."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from tunemake import schema
from tunemake.contracts import Generator

GENERATORS = {
    entry.name: entry
    for entry in entry_points(group="tunemake.datasets")
    if entry.value.startswith("tunemake_builtins")
}


def test_they_are_all_installed():
    assert len(GENERATORS) == 12


@pytest.mark.parametrize("name", GENERATORS)
def test_parameters_are_a_closed_schema_with_every_property_described(name):
    made = GENERATORS[name].load()()
    assert isinstance(made, Generator)
    assert "\n" not in made.summary
    assert not schema.invalid_schema(made.parameters)
    assert made.parameters["additionalProperties"] is False
    undescribed = [path for path, shape in properties(made.parameters, name) if not shape.get("description")]
    assert not undescribed


def properties(shape, path):
    if isinstance(shape, dict):
        inside = shape.get("properties", {})
        if shape.get("type") == "object" or "description" in shape:
            yield from ((f"{path}.{key}", inner) for key, inner in inside.items() if isinstance(inner, dict))
        for key, inner in [*inside.items(), ("[]", shape.get("items"))]:
            yield from properties(inner, f"{path}.{key}")


def test_loading_them_imports_nothing_heavy():
    loads = "".join(f"; {entry.value.partition(':')[0]}" for entry in GENERATORS.values())
    code = f"import sys{loads.replace('; ', '; import ')}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "xtuner", "datasets", "modelscope", "pyarrow", "pandas", "openpyxl", "jinja2",
             "numpy", "orjson", "ijson", "charset_normalizer", "huggingface_hub"}  # fmt: skip
    assert not heavy & set(loaded)
