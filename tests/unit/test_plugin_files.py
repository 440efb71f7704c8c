import pytest

from tunemake.plugin_files import imported_files, own_prompts


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("pkg/__init__.py", "from .core import x"),
        ("pkg/__init__.py", "from . import core"),
        ("pkg/sub/__init__.py", "from ..core import x"),
        ("pkg/sub/deep.py", "from .. import core"),
        ("pkg/sub/deep.py", "from ..core import x as y"),
    ],
)
def test_relative_imports_of_a_package_of_the_project_count(tmp_path, place, line):
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    for name in ("pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/deep.py", "pkg/core.py", "pkg/other.py"):
        (tmp_path / name).write_text("x = 1\n", "utf-8")
    (tmp_path / place).write_text(line, "utf-8")
    (tmp_path / "mine.py").write_text("import pkg.sub.deep", "utf-8")
    found = {str(path.relative_to(tmp_path)) for path in imported_files(tmp_path / "mine.py", tmp_path)}
    assert found == {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/deep.py", "pkg/core.py"}


def test_what_is_imported_from_beyond_the_project_is_no_file_of_it(tmp_path):
    (tmp_path / "mine.py").write_text("from ...core import x\nfrom . import y\nimport json", "utf-8")
    assert imported_files(tmp_path / "mine.py", tmp_path) == []


def test_the_prompt_templates_of_an_own_file(tmp_path):
    code = 'a = {"instruction": "{input}"}\nb = {"from_tokenizer": True}\n_c = dict(a)\nd = {"x": 1}\ne = [a]\n'
    (tmp_path / "mine.py").write_text(code, "utf-8")
    assert list(own_prompts(tmp_path / "mine.py")) == ["a", "b"]
