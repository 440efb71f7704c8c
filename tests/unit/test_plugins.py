import sys

import pytest

from tunemake.digests import Digests
from tunemake.faults import PluginError
from tunemake.plugin import DATASETS, PROBES, PROMPTS
from tunemake.plugins import Plugins

GOOD = '''
"""A stranger's generator."""
from pathlib import Path

class Lines:
    summary = "one sample a line"
    version = "1"
    parameters = {"type": "object", "properties": {"file": {"type": "string"}}, "additionalProperties": False}

    def inputs(self, parameters):
        return [Path(parameters["file"])]

    def samples(self, parameters, context):
        for line in (context.root / parameters["file"]).read_text().splitlines():
            yield {"messages": [{"role": "user", "content": line}, {"role": "assistant", "content": line}]}

class Asks(Lines):
    needs = ("base",)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install distributions the way importlib.metadata sees them: modules and .dist-info folders on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def add(distribution, module, code, **entries):
        (site / f"{module}.py").write_text(code)
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        text = "".join(f"[{group.replace('__', '.')}]\n{line}\n" for group, line in entries.items())
        (info / "entry_points.txt").write_text(text)
        sys.modules.pop(module, None)

    yield add
    for name in ("stranger_a", "stranger_b"):
        sys.modules.pop(name, None)


@pytest.fixture
def plugins(tmp_path):
    return Plugins(tmp_path, [], Digests(tmp_path / "digests.json"))


def test_the_built_ins_come_by_the_same_door(plugins):
    assert {"self_cognition", "replay"} <= set(plugins.names(DATASETS))
    assert plugins.get(DATASETS, "replay").origin.startswith("tunemake ")


def test_listing_imports_nothing(install, plugins):
    install("stranger", "stranger_a", "raise RuntimeError('imported')", tunemake__datasets="lines = stranger_a:Lines")
    assert "lines" in plugins.names(DATASETS)
    assert "stranger_a" not in sys.modules


def test_a_generators_facts_are_known_without_a_second_import(install, plugins):
    install("stranger", "stranger_a", GOOD, tunemake__datasets="lines = stranger_a:Lines\nasks = stranger_a:Asks")
    assert (plugins.facts("lines").needs_base, plugins.facts("lines").reads_files) == (False, True)
    assert plugins.facts("asks").needs_base
    assert plugins.parameter_faults("lines", {"file": "a"}, ()) == []
    del sys.modules["stranger_a"]
    plugins.facts("lines")
    assert plugins.parameter_faults("lines", {"file": "a"}, ()) == []
    assert "stranger_a" not in sys.modules


def test_inputs_are_files_of_the_project(install, plugins, tmp_path):
    install("stranger", "stranger_a", GOOD, tunemake__datasets="lines = stranger_a:Lines")
    assert plugins.inputs("lines", {"file": "q.txt"}) == [tmp_path / "q.txt"]


def test_wrong_parameters_are_told_with_their_path(install, plugins):
    install("stranger", "stranger_a", GOOD, tunemake__datasets="lines = stranger_a:Lines")
    at = ("datasets", "mine", "parameters")
    ((path, fault),) = plugins.parameter_faults("lines", {"fil": "a"}, at)
    assert path == (*at, "fil")
    assert str(fault) == 'project.toml: datasets.mine.parameters.fil: unknown key; did you mean "file"?'


def test_an_unknown_name_proposes_a_close_one(plugins):
    with pytest.raises(PluginError, match='self_cognitio: no such dataset generator; did you mean "self_cognition"'):
        plugins.get(DATASETS, "self_cognitio")


def test_two_distributions_of_one_name_are_both_named(install, plugins):
    install("one", "stranger_a", GOOD, tunemake__datasets="lines = stranger_a:Lines")
    install("two", "stranger_b", GOOD, tunemake__datasets="lines = stranger_b:Lines")
    told = r"lines: two dataset generators of this name: (one|two) 1\.0 and (one|two) 1\.0"
    with pytest.raises(PluginError, match=told + '; choose by "(one|two):lines" or "(one|two):lines"'):
        plugins.get(DATASETS, "lines")
    assert plugins.get(DATASETS, "two:lines").origin == "two 1.0"
    assert plugins.get(DATASETS, "one:lines").origin == "one 1.0"
    with pytest.raises(PluginError, match="three:lines: no such dataset generator"):
        plugins.get(DATASETS, "three:lines")


USES = """
class Both:
    summary = "all that two others give"
    version = "1"
    parameters = {"type": "object", "properties": {"parts": {"type": "array"}}}

    def uses(self, parameters):
        return [(part["generator"], part["parameters"]) for part in parameters["parts"]]

    def samples(self, parameters, context):
        for name, its in self.uses(parameters):
            yield from context.samples_of(name, its)

class Circle(Both):
    def uses(self, parameters):
        return [("circle", parameters)]
"""


def test_what_a_generator_uses_counts_as_its_own(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD + USES)
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json"))
    parts = [{"generator": "lines", "parameters": {"file": "a"}}, {"generator": "asks", "parameters": {"file": "b"}}]
    assert [name for name, _ in plugins.used("both", {"parts": parts})] == ["both", "lines", "asks"]
    assert plugins.needs_base("both", {"parts": parts})
    assert not plugins.needs_base("both", {"parts": parts[:1]})
    assert plugins.inputs("both", {"parts": parts}) == [tmp_path / "a", tmp_path / "b"]
    wrong = {"parts": [{"generator": "lines", "parameters": {"fil": "a"}}]}
    ((path, fault),) = plugins.parameter_faults("both", wrong, ("datasets", "x", "parameters"))
    assert path == ("datasets", "x", "parameters")
    assert 'datasets.x.parameters: lines: fil: unknown key; did you mean "file"?' in str(fault)
    with pytest.raises(PluginError, match="uses itself: circle → circle"):
        plugins.used("circle", {})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_this_name", r"lines \(stranger 1\.0\): cannot be imported: ModuleNotFoundError"),
        ("x = 1 /", r"cannot be imported: SyntaxError"),
        ("class Other: pass", r"cannot be imported: AttributeError"),
        ("class Lines: pass", r"summary: missing.*\n.*version: missing.*\n.*samples: missing.*\n.*parameters: missing"),
        (GOOD + "\nLines.inputs = 3", r"inputs: not a method"),
        (GOOD + "\nLines.needs = ('money',)", r"needs: not known; expected \(\"base\",\), got \('money',\)"),
        (GOOD + "\nLines.needs = None", r"needs: not known; expected \(\"base\",\), got None"),
        (GOOD + "\nLines.needs = 'base'", r"needs: not known; expected \(\"base\",\), got 'base'"),
        (GOOD + "\nLines.needs = [['base']]", r"needs: not known; expected \(\"base\",\), got \[\['base'\]\]"),
        (GOOD + "\nLines.__init__ = lambda self, x: None", r"cannot be made: TypeError"),
        (GOOD.replace('"type": "object"', '"type": "text"'), r"type.*expected a JSON Schema of draft 2020-12"),
    ],
)
def test_a_broken_plugin_is_named_with_its_distribution_and_the_cause(install, plugins, code, message):
    install("stranger", "stranger_a", code, tunemake__datasets="lines = stranger_a:Lines")
    with pytest.raises(PluginError, match=message):
        plugins.generator("lines")


def test_a_prompt_template_is_checked_and_filled_in(install, plugins):
    code = 'good = {"summary": "s", "instruction": "Q {input}"}\nbad = {"summary": "s", "instruction": "Q", "x": 1}'
    entries = "good = stranger_a:good\nbad = stranger_a:bad"
    install("stranger", "stranger_a", code, tunemake__prompts=entries)
    assert plugins.prompt_template("good")["separator"] == ""
    with pytest.raises(PluginError) as caught:
        plugins.prompt_template("bad")
    keys = "bos, from_tokenizer, instruction, separator, stop_words, suffix, suffix_as_eos, summary, system"
    assert [(fault.what, fault.expected) for fault in caught.value.faults] == [
        ("instruction: not allowed", "the field {input}, and no {system}"),
        ("x: unknown key", f"one of {keys}"),
    ]


def test_code_digests_change_with_the_code(install, plugins, tmp_path):
    install("stranger", "stranger_a", GOOD, tunemake__datasets="lines = stranger_a:Lines")
    before = plugins.code_digests(plugins.get(DATASETS, "lines"))
    assert list(before) == ["stranger_a.py"]
    (tmp_path / "site" / "stranger_a.py").write_text(GOOD + "\n# changed\n")
    assert plugins.code_digests(plugins.get(DATASETS, "lines")) != before


def test_a_file_of_the_projects_own(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD + '\nmy_prompt = {"summary": "s", "instruction": "{input}"}\n')
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json"))
    assert plugins.generator("lines").version == "1"
    assert plugins.get(DATASETS, "asks").origin == "mine.py"
    assert plugins.get(PROMPTS, "my_prompt").file == tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n1 / 0", r"mine\.py:2: cannot be imported: ZeroDivisionError: division by zero"),
        ("def x(:", r"mine\.py:1: cannot be imported: SyntaxError: "),
        ("import nothing_of_this_name", r"mine\.py:1: cannot be imported: ModuleNotFoundError: "),
    ],
)
def test_a_broken_file_of_the_projects_own_is_told_with_its_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(PluginError, match=message):
        Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json")).import_own("mine.py")


@pytest.mark.parametrize(
    ("method", "given", "told"),
    [
        ("inputs", "[None]", "a list of paths, got None in it"),
        ("inputs", "[['a']]", "a list of paths, got ['a'] in it"),
        ("inputs", "'a.csv'", "a list of paths, got 'a.csv'"),
        ("inputs", "None", "a list of paths, got None"),
        ("uses", "['lines']", "a list of pairs, each a generator's name and its parameters, got 'lines' in it"),
        ("uses", "[(None, {})]", "a list of pairs, each a generator's name and its parameters, got (None, {}) in it"),
        ("uses", "[('lines', None)]", "its parameters, got ('lines', None) in it"),
        ("uses", "'lines'", "its parameters, got 'lines'"),
        ("uses", "{'lines': {}}", "its parameters, got {'lines': {}}"),
    ],
)
def test_what_a_method_gives_is_checked_where_it_is_asked(tmp_path, method, given, told):
    (tmp_path / "mine.py").write_text(f"{GOOD}\nLines.{method} = lambda self, parameters: {given}\n")
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json"))
    with pytest.raises(PluginError) as caught:
        plugins.inputs("lines", {"file": "x"})
    (fault,) = caught.value.faults
    assert f"{method}: wrong value given; expected" in str(fault)
    assert str(fault).endswith(told)


def test_inputs_may_be_texts_and_come_from_a_generator(tmp_path):
    (tmp_path / "mine.py").write_text(f"{GOOD}\nLines.inputs = lambda self, parameters: (name for name in 'ab')\n")
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json"))
    assert plugins.inputs("lines", {"file": "x"}) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("value", "told"),
    [('"stop_words": {"a"}', "stop_words: wrong type; expected a list"), ("1: 2, 'x': 3", "x: unknown key")],
)
def test_a_prompt_template_that_is_no_json_is_told(tmp_path, value, told):
    (tmp_path / "mine.py").write_text('p = {"summary": "s", "instruction": "{input}", ' + value + "}")
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json"))
    with pytest.raises(PluginError) as caught:
        plugins.prompt_template("p")
    assert any(told in str(fault) for fault in caught.value.faults)


def test_two_own_files_of_one_name_are_both_named(tmp_path):
    (tmp_path / "a.py").write_text(GOOD + 'p = {"summary": "s", "instruction": "{input}"}\nq = dict(p)\n')
    (tmp_path / "b.py").write_text(GOOD + 'from a import q\np = {"summary": "s", "instruction": "Q {input}"}\n')
    plugins = Plugins(tmp_path, ["a.py", "b.py"], Digests(tmp_path / "d.json"))
    for group, name, kind in ((DATASETS, "lines", "dataset generator"), (PROMPTS, "p", "prompt template")):
        with pytest.raises(PluginError, match=rf"two {kind}s of this name: a\.py and b\.py; rename one of them"):
            plugins.get(group, name)
    assert plugins.get(PROMPTS, "q").origin == "a.py"
    twice = Plugins(tmp_path, ["a.py", "a.py"], Digests(tmp_path / "d.json"))
    assert twice.get(DATASETS, "lines").origin == "a.py"


def test_two_classes_of_one_name_in_snake_case(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD + "\nclass LINES(Lines): pass\nSame = Lines\n")
    with pytest.raises(PluginError, match=r"mine\.py: two classes give the name lines: Lines and LINES; rename one"):
        Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "d.json")).names(DATASETS)


def test_a_plugin_in_a_namespace_package(install, plugins, tmp_path):
    entries = "lines = spread.part.mine:Lines\nlone = spread.lone:Lines\nlost = spread.nowhere:Lines"
    install("stranger", "stranger_a", "", tunemake__datasets=entries)
    part = tmp_path / "site" / "spread" / "part"
    part.mkdir(parents=True)
    (tmp_path / "site" / "spread" / "lone.py").write_text(GOOD)
    (part / "__init__.py").write_text("")
    (part / "mine.py").write_text(GOOD)
    assert plugins.facts("lines").version == "1"
    assert sorted(plugins.code_digests(plugins.get(DATASETS, "lines"))) == ["part/__init__.py", "part/mine.py"]
    assert list(plugins.code_digests(plugins.get(DATASETS, "lone"))) == ["lone.py"]
    with pytest.raises(PluginError, match=r"module spread\.nowhere not found"):
        plugins.get(DATASETS, "lost").code()


PROBE = """
class Loud:
    summary, version, unit, needs = "how loud", "1", "shouts", ["questions"]
    parameters = {"type": "object", "additionalProperties": False, "properties": {"least": {"default": 3}}}

    def score(self, parameters, model):
        return parameters["least"]
"""


def test_a_probe_of_a_package_is_found_checked_and_its_parameters_filled(install, plugins):
    install("loud-dist", "stranger_a", PROBE, tunemake__probes="loud = stranger_a:Loud")
    assert "loud" in plugins.names(PROBES)
    assert "stranger_a" not in sys.modules
    assert plugins.get(PROBES, "loud").title == "probe loud (loud-dist 1.0)"
    assert plugins.probe("loud").unit == "shouts"
    assert plugins.probe_parameters("loud", {}) == {"least": 3}
    assert list(plugins.probe_code("loud")) == ["stranger_a.py"]
    ((path, fault),) = plugins.probe_faults("loud", {"leest": 1}, ("evaluate", "probe", 0, "parameters"))
    assert path == ("evaluate", "probe", 0, "parameters", "leest")
    assert "evaluate.probe[0].parameters.leest: unknown key" in str(fault)
    assert plugins.probe_faults("loud", {"least": 1}, ()) == []


def test_the_files_that_a_probe_reads_are_known(tmp_path):
    reads = "    def inputs(self, parameters):\n        return ['words.txt']\n"
    (tmp_path / "mine.py").write_text(PROBE + reads)
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "digests.json"))
    assert plugins.probe_inputs("loud", {}) == [tmp_path / "words.txt"]


def test_of_a_probe_that_ships_only_its_own_code_counts(plugins):
    assert list(plugins.probe_code("contains")) == ["tunemake_builtins/probes.py"]


def test_a_probe_of_the_projects_own_file_goes_before_one_that_is_installed(install, tmp_path):
    install("loud-dist", "stranger_a", PROBE, tunemake__probes="loud = stranger_a:Loud")
    (tmp_path / "mine.py").write_text(PROBE.replace("shouts", "whispers"))
    plugins = Plugins(tmp_path, ["mine.py"], Digests(tmp_path / "digests.json"))
    assert plugins.probe("loud").unit == "whispers"
    assert list(plugins.probe_code("loud")) == ["mine.py"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"how loud", "1", "shouts"', '"how loud", 1, ""', "version: missing; expected a text"),
        ('"how loud", "1", "shouts"', '"how loud", 1, ""', "unit: missing; expected a text"),
        ('["questions"]', '["answers"]', r"needs: not known; expected a list of questions, references, base, "),
        ('["questions"]', '"questions"', "needs: not known"),
        ("def score", "def scores", "score: missing; expected a method score"),
        (
            '{"type": "object", ',
            '{"type": "table", ',
            r"type: 'table' is not valid .*; expected a JSON Schema of draft 2020-12",
        ),
        ("class Loud", "raise SystemExit(3)\nclass Loud", "cannot be imported: SystemExit: 3"),
    ],
)
def test_a_broken_probe_is_named_with_its_distribution_and_the_cause(install, plugins, old, new, told):
    install("loud-dist", "stranger_a", PROBE.replace(old, new), tunemake__probes="loud = stranger_a:Loud")
    with pytest.raises(PluginError, match=rf"(?m)^probe loud \(loud-dist 1\.0\): {told}"):
        plugins.probe("loud")
