"""What the tests of XTuner's own configs share: a project that takes one, and configs as XTuner loads them."""

import json
import subprocess
import sys
from pathlib import Path

from tunemake import project as projects
from tunemake.engines import xtuner
from tunemake.loading import load_builder

HEAD = """
[project]
name = "p"
{seed}
[model]
source = "model"
{model}
[datasets.d]
generator = "self_cognition"
parameters = {{ name = "n", author = "a", samples = 3 }}

[data]
{data}

[train]
template = "{template}"
{train}
"""


def project(root, template, *, train="", data="", model="", seed=""):
    """Write a project that names a template; give the values of its config stage."""
    (root / "model").mkdir(exist_ok=True)
    text = HEAD.format(template=template, train=train, data=data, model=model, seed=seed)
    (root / projects.FILE).write_text(text, "utf-8")
    return values(root)


def values(root):
    return load_builder(root).stages["config"].parameters


def loaded(folder: Path):
    """Load every config of a folder as XTuner does; give their values by file name."""
    command = [sys.executable, str(Path(__file__).with_name("loaded.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


def rendered(root, template, **tables):
    return xtuner.render_config(project(root, template, **tables), root)
