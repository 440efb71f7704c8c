"""Fixtures that every test may use."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tests/tiny.py

# Machines are shared: that one is slow is no fault of the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the heaviest first, so that the workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("train") is None)


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory):
    """The folder of the tiny model that was taught a few answers."""
    from taught import write_taught

    folder = tmp_path_factory.mktemp("taught")
    write_taught(folder)
    return folder


@pytest.fixture(scope="session")
def bitsandbytes(request):
    """A folder that holds a bitsandbytes that computes on a CPU; made once, and kept between runs.

    XTuner pins an older one: this one is for processes that have the folder first on PYTHONPATH.
    """
    kept = Path(request.config.cache.mkdir("tunemake-bitsandbytes"))
    with FileLock(kept / "lock"):
        if not (kept / "whole").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(kept / "site")]
            subprocess.run([*pip, "bitsandbytes==0.50.2"], check=True)
            (kept / "whole").touch()
    return kept / "site"


@pytest.fixture(autouse=True)
def _no_threads_of_other_tests():
    """End with each thread that was begun with a function of ours: what it does later, it does amid another test."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        module = getattr(getattr(thread, "_target", None), "__module__", "") or ""
        if module.partition(".")[0] == "tunemake" or module.startswith("test_"):
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} of {module} goes on after the test"


@pytest.fixture(autouse=True)
def _no_modules_of_other_tests(tmp_path_factory):
    """Forget what was imported from temporary folders: a look at a project counts all code, and where it is found."""
    yield
    home = str(tmp_path_factory.getbasetemp())
    sys.path[:] = [place for place in sys.path if not place.startswith(home)]
    for name, module in sys.modules.copy().items():  # at once: another thread may import meanwhile
        if (getattr(module, "__file__", None) or "").startswith(home):
            del sys.modules[name]
