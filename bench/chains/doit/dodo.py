"""The chain for plain doit, as a careful author writes it: the parameter and the script are declared."""

from doit.tools import config_changed

MARK = "!"


def task_b() -> dict[str, object]:
    """Write b."""
    return {
        "actions": [f"python3 step.py upper src b {MARK}"],
        "file_dep": ["src", "step.py"],
        "uptodate": [config_changed(MARK)],
        "targets": ["b"],
    }


def task_c() -> dict[str, object]:
    """Write c."""
    return {"actions": ["python3 step.py swapcase b c"], "file_dep": ["b", "step.py"], "targets": ["c"]}
