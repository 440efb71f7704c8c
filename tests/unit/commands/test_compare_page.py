import shutil

import pytest

from report_project import PROJECT, Built
from tunemake import cli
from tunemake.reports.project_page import comparison


@pytest.fixture
def root(tmp_path):
    """A built project, whose artifacts two variants show."""
    made = Built(tmp_path / "project")
    made.build()
    build = made.root / "build"
    shutil.move(build / "default", build / "r2")
    shutil.copytree(build / "r2", build / "r4", symlinks=True)
    (build / "r4" / "report").unlink()
    (made.root / "project.toml").write_text(PROJECT + '\n[matrix]\n"train.lora.r" = [2, 4, 8]\n')
    return made.root


def test_variants_stand_side_by_side_with_the_way_to_their_reports(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert cli.main(["compare", "--html", "build/variants.html"]) == 0
    assert capsys.readouterr().out == "build/variants.html: 3 variants\n"
    page = (root / "build" / "variants.html").read_text("utf-8")
    assert '<a href="r2/report/report.html">r2</a>' in page
    assert (root / "build" / "r2" / "report" / "report.html").is_file()
    assert "<td>r4</td>" in page
    assert page.count('<span class="good">passed</span>') == 2
    keys = [f'<span class="key k{number}"></span>{name}</span>' for number, name in ((1, "r2"), (2, "r4"))]
    assert all(key in page for key in keys)
    assert str(root) not in page
    assert cli.main(["compare", "--html", "nowhere/variants.html"]) == 2
    assert "nowhere/variants.html: its folder is not there; make nowhere" in capsys.readouterr().err


def test_a_project_of_which_nothing_is_built_has_a_page(tmp_path):
    page = comparison(tmp_path, "tiny", ["a", "b"], tmp_path)
    assert "<td>a</td>" in page
    assert "<svg" not in page
