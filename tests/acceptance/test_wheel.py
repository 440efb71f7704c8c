"""What is installed is whole: the wheel, away from this checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import BIN

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("tunemake-*.whl"))


def test_every_schema_and_template_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for shelf in ("schemas", "templates"):
        for path in (REPOSITORY / shelf).rglob("*"):
            if path.is_file():
                assert f"tunemake/{path.relative_to(REPOSITORY)}" in names
    assert "tunemake_builtins/general_prompts_zh.txt" in names
    assert "tunemake/py.typed" in names


def test_a_project_builds_its_data_from_the_wheel_alone(wheel, project, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import tunemake, tunemake.shelves as s; print(tunemake.__file__, s.find('schemas', 'sample.schema.json'))"
    told = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(Path(path).is_relative_to(site) for path in told)
    done = project.doit("config", "data", PYTHONPATH=str(site))
    assert done.code == 0, done.told()
    assert (project.root / "build/default/config/train.py").exists()
    assert BIN.exists()
