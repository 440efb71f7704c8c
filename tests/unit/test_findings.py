import re
from pathlib import Path

from tunemake.faults import Fault
from tunemake.findings import Finding, in_order, verdict

REPOSITORY = Path(__file__).parents[2]


def found(*severities):
    return [Finding(severity, f"c{number}", Fault("a", "b")) for number, severity in enumerate(severities)]


def test_errors_come_first_and_the_rest_keeps_its_order():
    told = in_order(found("note", "warning", "error", "warning"))
    assert [finding.code for finding in told] == ["c2", "c1", "c3", "c0"]


def test_the_verdict_counts():
    assert verdict([]) == "nothing found: ready to build"
    assert verdict(found("warning", "warning", "note")) == "2 warnings, 1 note: ready to build"
    assert verdict(found("error", "note")) == "1 error, 1 note: the build would fail, or train nothing"


def test_every_code_is_documented():
    source = "".join(file.read_text("utf-8") for file in (REPOSITORY / "src/tunemake").rglob("*.py"))
    codes = set(re.findall(r'(?:Finding|_find)\(\s*"(?:error|warning|note)", "(\w+)"', source))
    codes |= set(re.findall(r'\berrors\("(\w+)"', source)) | set(re.findall(r'_made\(stage, "(\w+)"', source))
    table = (REPOSITORY / "docs/check.md").read_text("utf-8").partition("## Findings")[2].partition("## ")[0]
    told = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])}
    assert len(codes) > 15
    assert codes - {"template_in_samples"} <= told  # of which check tells as markup_in_text
