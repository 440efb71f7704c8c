"""project.toml edited: what is added is there, everything else is as it was, whatever form the file has."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.commands.project_edits import put_in, with_dataset, with_plugin
from tunemake.faults import ProjectError

TABLE = '[datasets.mine]\ngenerator = "mine"\n'
PLUGIN = "plugins/mine.py"


def test_a_list_is_made_above_the_first_table_and_what_is_said_of_it():
    text = "#:schema x.json\n# The file's.\n\n# The table's.\n[project]\nname = 'x'\n"
    assert with_plugin(text, PLUGIN) == (
        "#:schema x.json\n# The file's.\n\nplugins = [\"plugins/mine.py\"]\n\n# The table's.\n[project]\nname = 'x'\n"
    )


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("[project]\n", f'plugins = ["{PLUGIN}"]\n\n[project]\n'),
        ("#:schema x\n[project]\n", f'#:schema x\nplugins = ["{PLUGIN}"]\n\n[project]\n'),
        ("# all\n[project]\n", f'# all\nplugins = ["{PLUGIN}"]\n\n[project]\n'),
        ("project.name = 'x'", f"project.name = 'x'\nplugins = [\"{PLUGIN}\"]\n\n"),
        ("plugins = []\n", f'plugins = ["{PLUGIN}"]\n'),
        ("plugins = [\n  # none yet\n]\n", f'plugins = [\n    "{PLUGIN}",\n  # none yet\n]\n'),
        ('plugins = ["a.py"] # one\n', f'plugins = ["a.py", "{PLUGIN}"] # one\n'),
        ('plugins = ["a.py",]\n', f'plugins = ["a.py", "{PLUGIN}",]\n'),
        ('"plugins" = ["a.py"]\n', f'"plugins" = ["a.py", "{PLUGIN}"]\n'),
        ('plugins = [\n  "a.py"\n]\n', f'plugins = [\n  "a.py",\n  "{PLUGIN}",\n]\n'),
        ('plugins = [\n  "a.py", # A\n]\n', f'plugins = [\n  "a.py", # A\n  "{PLUGIN}",\n]\n'),
        ('plugins = [\n  "a.py" # A\n]\n', f'plugins = [\n  "a.py", # A\n  "{PLUGIN}",\n]\n'),
        ('plugins = ["a.py",\n"b.py" # B\n, # C\n]\n', f'plugins = ["a.py",\n"b.py" # B\n, # C\n    "{PLUGIN}",\n]\n'),
        ('plugins = [\r\n  "ä.py",\r\n]\r\n', f'plugins = [\r\n  "ä.py",\r\n  "{PLUGIN}",\r\n]\r\n'),
        ("x = 1\r\n[project]\r\n", f'x = 1\r\nplugins = ["{PLUGIN}"]\r\n\r\n[project]\r\n'),
    ],
)
def test_the_file_is_put_into_lists_of_every_form(text, edited):
    assert with_plugin(text, PLUGIN) == edited
    assert tomllib.loads(edited)["plugins"] == [*tomllib.loads(text).get("plugins", []), PLUGIN]


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("[datasets.a]\nx = 1\n\n# of data\n[data]\n", f"[datasets.a]\nx = 1\n\n{TABLE}\n# of data\n[data]\n"),
        ("[datasets.a]\nx = 1\n[datasets.a.b]\n[data]\n", f"[datasets.a]\nx = 1\n[datasets.a.b]\n\n{TABLE}[data]\n"),
        ("datasets.a.x = 1\n", f"datasets.a.x = 1\n\n{TABLE}"),
        ("[datasets.a]\nx = 1", f"[datasets.a]\nx = 1\n\n{TABLE}"),
        ("[datasets.a]\nx = 1\n\n\n# the end\n", f"[datasets.a]\nx = 1\n\n\n# the end\n\n{TABLE}"),
        ('["datasets".a]\nx = 1\n\n[data]\n', f'["datasets".a]\nx = 1\n\n{TABLE}\n[data]\n'),
        ("[datasets]\na = { x = 1 }\n\n[data]\n", f"[datasets]\na = {{ x = 1 }}\n\n{TABLE}\n[data]\n"),
        ("[datasets.a]\r\nx = 1\r\n", "[datasets.a]\r\nx = 1\r\n\r\n" + TABLE.replace("\n", "\r\n")),
    ],
)  # fmt: skip
def test_a_dataset_stands_behind_the_others(text, edited):
    assert with_dataset(text, TABLE) == edited
    assert tomllib.loads(edited)["datasets"]["mine"] == {"generator": "mine"}


def test_a_byte_order_mark_and_a_link_stay(tmp_path):
    (tmp_path / "shared.toml").write_bytes("\ufeff[datasets.a]\r\nx = 1\r\n".encode())
    (tmp_path / "project.toml").symlink_to("shared.toml")
    put_in(tmp_path, PLUGIN, ("mine", TABLE))
    assert (tmp_path / "project.toml").is_symlink()
    text = (tmp_path / "shared.toml").read_bytes().decode()
    assert text.startswith('\ufeffplugins = ["plugins/mine.py"]\r\n\r\n[datasets.a]\r\n')
    assert text.count("\n") == text.count("\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "datasets = { a = { x = 1 } }\n",  # an inline table is whole
        '[datasets.a]\nx = """\n# [b]\n#"""\n[data]\n',  # what stands above the head is no comment
    ],
)
def test_what_cannot_be_edited_is_left_and_told(tmp_path, text):
    path = tmp_path / "project.toml"
    path.write_text(text)
    told = r'only you can edit; add "plugins/mine\.py" to plugins above the first table, and \[datasets\.mine\]'
    with pytest.raises(ProjectError, match=told):
        put_in(tmp_path, PLUGIN, ("mine", TABLE))
    assert path.read_text() == text


comments = st.sampled_from(["", "# c\n", "\n", "\n# c\n\n", "# [datasets.x]\n"])
pieces = st.sampled_from(
    ["[project]\nname = 'x'\n", "[datasets.a]\nx = ['#', \"[\"]\n", "[datasets.a.p]\ny = '''\n[data]\n'''\n",
     "[data]\n", "[[list]]\n[[list]]\n", "[datasets.b] # b\n", "[train.lora]\nr = 1\n"]
)  # fmt: skip


@given(st.lists(pieces, unique=True), st.lists(comments, min_size=8, max_size=8), st.booleans())
def test_all_else_is_as_it_was(tables, between, listed):
    top = "plugins = ['a.py'] # A\n" if listed else ""
    text = top + "".join(comment + table for comment, table in zip(between, tables, strict=False))
    edited = with_dataset(with_plugin(text, PLUGIN), TABLE)
    before, after = tomllib.loads(text), tomllib.loads(edited)
    assert after.pop("plugins") == [*before.pop("plugins", []), PLUGIN]
    assert after["datasets"].pop("mine") == {"generator": "mine"}
    assert after == {"datasets": {}} | before
    remaining = iter(edited.splitlines())  # every line is there still, in its order
    assert all(line in remaining for line in text.splitlines() if not line.startswith("plugins"))
