"""YAML text → a tree in which every value knows its line and column. Values stay as written; nothing is looked up.

Only plain data: anchors, aliases, tags and repeated keys are refused. true/false, decimal numbers and null are what
they look like; everything else is text (no 1.1 surprises such as `on`, `010` or `12:30`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from millstream.pipelines.diagnostics import Diagnostic, Place

SIZE_MAX = 1 << 20  # characters of one file
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


@dataclass(frozen=True)
class Scalar:
    """`text` is the value's text; `value` what it means; `source` the file's text around it, from `place` on."""

    text: str
    value: str | int | float | bool | None
    place: Place
    source: str
    block: bool

    def marks(self) -> tuple[tuple[int, int], ...]:
        """Line and column in the file of each character of `text`, and of its end."""
        line, column, at = self.place.line, self.place.column, 0
        marks: list[tuple[int, int]] = []

        def step() -> None:
            nonlocal line, column, at
            line, column = (line + 1, 1) if self.source[at] == "\n" else (line, column + 1)
            at += 1

        while self.block and at < len(self.source) and line == self.place.line:
            step()  # past the | or > and what may stand behind it
        for char in self.text:
            # White space is folded, indented and escaped in many ways: only the rest is matched.
            if not char.isspace() and char in self.source[at:]:
                while self.source[at] != char:
                    step()
            marks.append((line, column))
            if not char.isspace() and at < len(self.source) and self.source[at] == char:
                step()
        return (*marks, (line, column))


@dataclass(frozen=True)
class Items:
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Section:
    """A mapping with text keys; `keys` are their places."""

    entries: Mapping[str, Node]
    keys: Mapping[str, Place]
    place: Place


Node = Scalar | Items | Section


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not used here", event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, "tags (!…) are not used here", event.start_mark)
        return super().compose_node(parent, index)


def documents(file: str, text: str, mistakes: list[Diagnostic]) -> list[Section]:
    """The documents of a file, empty ones left out. What cannot be read is noted, and what follows it is lost."""
    if len(text) > SIZE_MAX:
        mistakes.append(Diagnostic(file, 1, 1, "", "file_too_large", f"the file has more than {SIZE_MAX} characters", "split it"))
        return []
    found: list[Section] = []
    try:
        for node in _composed(text):
            if isinstance(node, yaml.ScalarNode) and not node.value:
                continue
            built = _build(node, file, text, mistakes)
            if isinstance(built, Section):
                found.append(built)
            else:
                _note(mistakes, built.place, "not_a_mapping", "a document is a list of `key: value`", "begin it with source: or pipeline:")
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        cure = "mend the YAML; quote a value that holds : or # or begins with a special character"
        _note(mistakes, place, "yaml_unreadable", f"the YAML cannot be read: {e.problem or e.context}", cure)
    except (yaml.YAMLError, RecursionError) as e:
        _note(mistakes, Place(file, 1, 1), "yaml_unreadable", f"the YAML cannot be read: {type(e).__name__}", "save it as UTF-8 text")
    return found


def _composed(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    finally:
        loader.dispose()


def _build(node: yaml.Node, file: str, text: str, mistakes: list[Diagnostic]) -> Node:
    place = Place(file, node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.ScalarNode):
        source = text[node.start_mark.index : node.end_mark.index]
        value = _meaning(node.value) if node.style is None else node.value
        return Scalar(node.value, value, place, source, node.style in ("|", ">"))
    if isinstance(node, yaml.SequenceNode):
        return Items(tuple(_build(item, file, text, mistakes) for item in node.value), place)
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    for key, value in node.value:
        at = Place(file, key.start_mark.line + 1, key.start_mark.column + 1)
        if not isinstance(key, yaml.ScalarNode):
            _note(mistakes, at, "bad_key", "a key is a word", "write `key: value`")
        elif key.value in entries:
            _note(mistakes, at, "key_twice", f"{key.value} is given twice", f"it was first given in line {keys[key.value].line}; keep one")
        else:
            entries[key.value], keys[key.value] = _build(value, file, text, mistakes), at
    return Section(entries, keys, place)


def _meaning(text: str) -> str | int | float | bool | None:
    if text in ("true", "false"):
        return text == "true"
    if text in ("", "~", "null"):
        return None
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


def _note(mistakes: list[Diagnostic], place: Place, code: str, message: str, cure: str) -> None:
    mistakes.append(Diagnostic(place.file, place.line, place.column, "", code, message, cure))
