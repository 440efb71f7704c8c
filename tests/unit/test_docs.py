"""The documentation is whole and not stale: reference pages, the plugin guide's contracts, and every link."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from tunemake.digests import Digests
from tunemake.plugin import PROBES
from tunemake.plugins import Plugins
from tunemake.schema import load_schema, schema_faults

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
GUIDE = DOCS / "plugins.md"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("name", ["project.md", "generators.md", "prompts.md", "probes.md", "commands.md"])
def test_a_reference_page_is_what_the_generator_writes(pages, name):
    told = f"docs/reference/{name} is stale: python docs/generate.py writes it anew"
    assert (DOCS / "reference" / name).read_text("utf-8") == pages[name], told


def test_the_reference_holds_these_pages_and_no_other(pages):
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(pages)


def contracts():
    """Give the public names of contracts.py, each with its public fields and methods."""
    tree = ast.parse((REPOSITORY / "src/tunemake/contracts.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            for member in node.body:
                name = member.name if isinstance(member, ast.FunctionDef) else None
                if isinstance(member, ast.AnnAssign):
                    name = member.target.id
                if name and not name.startswith("_"):
                    yield f"{node.name}.{name}"


@pytest.mark.parametrize("name", list(contracts()))
def test_every_public_contract_is_documented(name):
    prose = re.sub(r"^```.*?^```$", "", GUIDE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    told = " ".join(re.findall(r"`[^`\n]+`", prose))
    last = name.rpartition(".")[2]
    assert re.search(rf"\b{last}\b", told), f"docs/plugins.md does not tell of {name}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert all((page.parent / link).exists() for link in links), links


PROBES_PAGE = (DOCS / "probes.md").read_text("utf-8")
HEAD = '[[evaluate.probe]]\nname = "facts"\nkind = "exact_match"\n'


@pytest.mark.parametrize("block", re.findall(r"^```toml\n(.*?)^```$", PROBES_PAGE, flags=re.MULTILINE | re.DOTALL))
def test_what_the_page_of_probes_declares_is_allowed(block, tmp_path):
    values = tomllib.loads(block if block.startswith("[") else HEAD + block)
    shapes = load_schema("project.schema.json")["properties"]
    if "train" in values:
        told, shape = values["train"]["early_stop"], shapes["train"]["properties"]["early_stop"]
    else:
        told, shape = values["evaluate"], shapes["evaluate"]
        told.setdefault("probe", tomllib.loads(HEAD)["evaluate"]["probe"])
    assert schema_faults(told, shape, "probes.md") == []
    plugins = Plugins(tmp_path, [], Digests(tmp_path / "digests.json"))
    assert not any(plugins.probe_faults(one["kind"], one.get("parameters", {}), ()) for one in told["probe"])


def test_the_page_of_probes_names_each_that_ships(tmp_path):
    names = Plugins(tmp_path, [], Digests(tmp_path / "digests.json")).names(PROBES)
    assert [name for name in names if f"`{name}`" not in PROBES_PAGE] == []


def test_the_page_of_performance_is_what_the_benchmarks_wrote(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "bench"))
    spec = importlib.util.spec_from_file_location("bench_all", REPOSITORY / "bench" / "all.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "performance.md").read_text("utf-8") == module.page(), "python bench/all.py --page writes it anew"
