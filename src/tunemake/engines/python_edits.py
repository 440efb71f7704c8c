"""Edits Python source as a person does, line by line: values are replaced in place, all else stays as it is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class PythonText:
    """Source with edits to come. Raises SyntaxError where it does not parse.

    Edits name nodes of the tree of the source as it was; `edited` gives the text with all of them made.
    """

    source: str
    _edits: dict[tuple[int, int], str] = field(default_factory=dict)
    _drops: dict[int, tuple[list[Any], set[int]]] = field(default_factory=dict)
    _imports: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)
        self._bytes = self.source.encode()  # columns of the tree count bytes
        self._lines = [0]
        for line in self._bytes.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def assigned(self, name: str) -> ast.expr | None:
        """Give what a name of the module is last set to, or None."""
        found = None
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                found = node.value
        return found

    def followed(self, node: ast.expr | None) -> ast.expr | None:
        """Give what a name stands for, and everything else as it is."""
        while isinstance(node, ast.Name) and (value := self.assigned(node.id)) is not None:
            node = value
        return node

    def keyword(self, call: ast.expr | None, name: str) -> ast.expr | None:
        """Give a keyword's value in a call such as dict(lr=lr), or None."""
        found = _keyword(call, name)
        return None if found is None else found.value

    def at(self, path: str) -> ast.expr | None:
        """Give a value inside calls: "model.llm.torch_dtype" is that of model = dict(llm=dict(torch_dtype=...))."""
        first, *steps = path.split(".")
        node = self.assigned(first)
        for step in steps:
            node = self.keyword(self.followed(node), step)
        return node

    def text_of(self, node: ast.expr | None) -> str:
        """Give a node's source in one form, or "" for None."""
        return "" if node is None else ast.unparse(node)

    def set_name(self, name: str, text: str) -> bool:
        """Set a name of the module to an expression where it is first set; False where the module has no such name."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                self.replace(node.value, text)
                return True
        return False

    def rename(self, old: str, new: str) -> None:
        """Rename a name wherever it stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and node.id == old:
                self.replace(node, new)

    def replace(self, node: ast.expr, text: str) -> None:
        """Put an expression in another's place; nothing where it is the same one."""
        if ast.dump(ast.parse(text, mode="eval").body) != ast.dump(node):
            self._edit(self._start(node), self._end(node), text)

    def set_keyword(self, call: ast.expr | None, name: str, text: str) -> bool:
        """Set a keyword of a call, after the others where it is new; False where there is no call."""
        if not isinstance(call, ast.Call):
            return False
        found = _keyword(call, name)
        if found is not None:
            self.replace(found.value, text)
        else:
            last = call.keywords[-1]
            alone = last.lineno != call.lineno
            before = "\n" + " " * last.col_offset if alone else " "
            end = self._end(last.value)
            self._edit(end, end, f",{before}{name}={text}")
        return True

    def set_where_kept(self, call: ast.expr | None, name: str, text: str) -> bool:
        """Set a keyword's value where it is kept: at the name that the keyword is given, or else in the call."""
        value = self.keyword(call, name)
        return (isinstance(value, ast.Name) and self.set_name(value.id, text)) or self.set_keyword(call, name, text)

    def drop_keyword(self, call: ast.expr | None, name: str) -> bool:
        """Take a keyword out of a call; False where it is not in it."""
        found = _keyword(call, name)
        if found is None or not isinstance(call, ast.Call):
            return False
        self._drop(call.keywords, call.keywords.index(found))
        return True

    def drop_item(self, sequence: ast.List, item: ast.expr) -> None:
        """Take an item out of a list."""
        self._drop(sequence.elts, sequence.elts.index(item))

    def imports(self, module: str, name: str | None = None) -> None:
        """See to it that `from module import name` has been said, or without a name `import module`."""
        if name is None:
            plain = [alias.name for node in self.tree.body if isinstance(node, ast.Import) for alias in node.names]
            if module not in plain:
                self._edit(self._start(self._first_import()), self._start(self._first_import()), f"import {module}\n")
        elif not any(node.module == module and alias.name == name for node, alias in self._imported()):
            wanted = self._imports.setdefault(module, [])
            wanted += [] if name in wanted else [name]

    def edited(self) -> str:
        """Give the text with all edits made."""
        edits = [*self._replacements(), *self._drop_edits(), *self._import_edits()]
        edits.sort(key=lambda edit: (edit[0], -edit[1]))
        text, done = [], 0
        for start, end, new in edits:
            if end <= done and end > start:
                continue  # inside of what another edit has replaced
            assert start >= done, "edits overlap"
            text += [self._bytes[done:start], new.encode()]
            done = end
        return b"".join([*text, self._bytes[done:]]).decode()

    def _drop(self, nodes: list[Any], number: int) -> None:
        self._drops.setdefault(id(nodes), (nodes, set()))[1].add(number)

    def _drop_edits(self) -> Iterator[tuple[int, int, str]]:
        """Give an edit for each run of neighbours that go, with the comma that parts it from what stays."""
        for nodes, gone in self._drops.values():
            for first in sorted(number for number in gone if number - 1 not in gone):
                after = next(number for number in range(first, len(nodes) + 1) if number not in gone)
                if after < len(nodes):
                    yield self._start(nodes[first]), self._start(nodes[after]), ""
                else:
                    before = self._end(nodes[first - 1]) if first else self._start(nodes[first])
                    yield before, self._end(nodes[-1]), ""

    def _first_import(self) -> ast.stmt:
        return next(node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom))

    def _imported(self) -> Iterator[tuple[ast.ImportFrom, ast.alias]]:
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                yield from ((node, alias) for alias in node.names)

    def _import_edits(self) -> Iterator[tuple[int, int, str]]:
        used = self._still_used()
        for module, wanted in self._imports.items():
            names = list(wanted)
            there = [(node, alias) for node, alias in self._imported() if node.module == module]
            idle = [alias for _, alias in there if (alias.asname or alias.name) not in used]
            while idle and names:  # as one who edits by hand writes the new name over the old one
                alias = idle.pop(0)
                yield self._start(alias), self._end(alias), names.pop(0)
            if names and there:
                node, last = there[-1]
                before = " " if last.lineno == node.lineno else "\n" + " " * last.col_offset
                end = self._end(last)
                yield end, end, "".join(f",{before}{name}" for name in names)
            elif names:
                end = self._end([n for n in self.tree.body if isinstance(n, ast.Import | ast.ImportFrom)][-1])
                yield end, end, f"\nfrom {module} import {', '.join(names)}"

    def _still_used(self) -> set[str]:
        edits = [*self._replacements(), *self._drop_edits()]
        gone = [(start, end) for start, end, _ in edits if end > start]
        used = set(re.findall(r"\w+", " ".join(text for _, _, text in edits)))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and not any(a <= self._start(node) and self._end(node) <= b for a, b in gone):
                used.add(node.id)
        return used

    def _edit(self, start: int, end: int, text: str) -> None:
        """Keep an edit: what is put in goes after what was put in there before, what is replaced, in its place."""
        before = self._edits.get((start, end), "") if start == end else ""
        self._edits[start, end] = before + text

    def _replacements(self) -> list[tuple[int, int, str]]:
        return [(start, end, text) for (start, end), text in self._edits.items()]

    def _start(self, node: ast.expr | ast.stmt | ast.keyword | ast.alias) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        line, column = getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)
        assert line is not None
        assert column is not None
        return int(self._lines[line - 1] + column)


def _keyword(call: ast.expr | None, name: str) -> ast.keyword | None:
    if not isinstance(call, ast.Call):
        return None
    return next((entry for entry in call.keywords if entry.arg == name), None)
