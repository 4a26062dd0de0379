"""Examples that stand beside a pipeline in a project's files: rows and events of its inputs, and what must come of them.

Here they are read and checked against the pipeline's plan; the engine runs them. A mistake in one is a diagnostic like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from millstream.events.batch import CREATE, DELETE, READ, UPDATE
from millstream.events.types import RowSchema
from millstream.pipelines import values
from millstream.pipelines.declared import declared_schema
from millstream.pipelines.definitions import Project
from millstream.pipelines.diagnostics import Diagnostic, Place
from millstream.pipelines.plan import Plan
from millstream.pipelines.sql.mistakes import suggestion
from millstream.pipelines.yaml import Items, Node, Scalar, Section

Row = Mapping[str, Any]
WORDS: Mapping[str, Literal["c", "u", "d", "r"]] = {"insert": CREATE, "update": UPDATE, "delete": DELETE, "read": READ}  # type: ignore[dict-item]
_KEYS = ("name", "inputs", "given", "expect", "events")


@dataclass(frozen=True)
class Change:
    """One event of an input: whole images, in the columns of its topic."""

    op: Literal["c", "u", "d", "r"]
    before: Row | None
    after: Row | None


@dataclass(frozen=True)
class Expected:
    """A row, or an event's image, of which only the columns that are written are compared. `op` is None for a row."""

    row: Row
    place: Place
    op: Literal["c", "u", "d", "r"] | None = None


@dataclass(frozen=True)
class Example:
    """`given`: what each input has, batch after batch. `rows`: step → all its rows in the end; `events`: step → all its events,
    in order; each with the place of its list."""

    pipeline: str
    name: str
    place: Place
    given: tuple[Mapping[str, tuple[Change, ...]], ...]
    rows: Mapping[str, tuple[Place, tuple[Expected, ...]]]
    events: Mapping[str, tuple[Place, tuple[Expected, ...]]]


@dataclass(frozen=True)
class Written:
    """The examples of one pipeline or product as they stand in its own document or in one of tests/."""

    subject: str
    items: Items
    path: str


@dataclass
class Book:
    """All examples of a project, as written, with the columns that its files declare for topics that need not exist."""

    written: list[Written] = field(default_factory=list)
    declared: dict[str, RowSchema] = field(default_factory=dict)
    mistakes: list[Diagnostic] = field(default_factory=list)

    def subjects(self) -> list[str]:
        return list(dict.fromkeys(w.subject for w in self.written))


def book(project: Project) -> Book:
    """What the files hold. Never raises: `mistakes` has all that is wrong with their form."""
    found = Book()
    known = [*(p.name for p in project.pipelines), *(p.name for p in project.products)]
    for kind, definitions in (("pipelines", project.pipelines), ("products", project.products)):
        for definition in definitions:
            _add(found, definition.name, definition.examples, f"{kind}.{definition.name}.examples")
    for number, section in enumerate(project.tests):
        path = f"tests[{number}]"
        _no_other_keys(section, path, ("test", "inputs", "examples"), found.mistakes)
        _declare(found, section.entries.get("inputs"), f"{path}.inputs")
        if "test" not in section.entries and "examples" not in section.entries:
            continue  # only inputs, for all
        subject = section.entries.get("test")
        if not isinstance(subject, Scalar) or not isinstance(subject.value, str):
            place = subject.place if subject else section.place
            _note(found.mistakes, place, f"{path}.test", "missing", "test: names a pipeline or product", "write test: name")
            continue
        if subject.value not in known:
            cure = suggestion(subject.value, known, "pipelines and products")
            _note(
                found.mistakes, subject.place, f"{path}.test", "unknown_pipeline", f"there is no pipeline or product {subject.value}", cure
            )
            continue
        _add(found, subject.value, section.entries.get("examples", Items((), section.place)), f"{path}.examples")
    return found


def _add(found: Book, subject: str, node: Node | None, path: str) -> None:
    if node is None:
        return
    if not isinstance(node, Items):
        _note(found.mistakes, node.place, path, "bad_value", "examples is a list", "begin each example with - name:")
        return
    for number, item in enumerate(node.items):
        if isinstance(item, Section):
            _declare(found, item.entries.get("inputs"), f"{path}[{number}].inputs")
    found.written.append(Written(subject, node, path))


def _declare(found: Book, node: Node | None, path: str) -> None:
    """The columns of topics. The same topic may be declared in several places, in the same columns."""
    if node is None:
        return
    if not isinstance(node, Section):
        _note(
            found.mistakes,
            node.place,
            path,
            "bad_value",
            "inputs: maps topics to their columns",
            "write topic: {key: [id], columns: {id: int64}}",
        )
        return
    for topic, declaration in node.entries.items():
        where = f"{path}.{topic}"
        schema = declared_schema(declaration, partial(_at, found.mistakes, where))
        if schema is not None and found.declared.setdefault(topic, schema) != schema:
            message = f"{topic} is declared elsewhere with other columns"
            _note(
                found.mistakes,
                node.keys[topic],
                where,
                "inputs_differ",
                message,
                "declare it once, in a document of tests/ that has inputs: alone",
            )


# ---- against the plans --------------------------------------------------------------------------------------------------


def read_all(found: Book, plans: Iterable[Plan]) -> tuple[list[Example], list[Diagnostic]]:
    """The examples of these plans, in the order of the files, and every mistake in them."""
    by_name = {p.pipeline: p for p in plans}
    examples: list[Example] = []
    mistakes: list[Diagnostic] = []
    for written in found.written:
        if written.subject in by_name:
            examples += read(written, by_name[written.subject], mistakes)
    return examples, mistakes


def read(written: Written, plan: Plan, mistakes: list[Diagnostic]) -> list[Example]:
    """The examples, typed by the plan's inputs and steps. What is wrong is noted, and its example left out."""
    found = []
    for number, node in enumerate(written.items.items):
        reading = _Reading(plan, f"{written.path}[{number}]")
        example = reading.example(written.subject, node)
        mistakes += reading.mistakes
        if example is not None and not reading.mistakes:
            found.append(example)
    return found


class _Reading:
    """One example."""

    def __init__(self, plan: Plan, path: str) -> None:
        self._path = path
        self._inputs = {i.topic: i.schema for i in plan.inputs}
        self._steps = {n.name: n.schema for n in plan.nodes if "#" not in n.name}
        self._now: dict[str, dict[tuple[Any, ...], Row]] = {}  # topic → its rows so far
        self.mistakes: list[Diagnostic] = []

    def example(self, subject: str, node: Node) -> Example | None:
        if not isinstance(node, Section):
            self._note(
                node.place, self._path, "bad_value", "an example is a list of `key: value`", "write - name: …, given: … and expect: …"
            )
            return None
        _no_other_keys(node, self._path, _KEYS, self.mistakes)
        name = node.entries.get("name")
        if not isinstance(name, Scalar) or not name.text.strip():
            self._note(
                name.place if name else node.place, f"{self._path}.name", "missing", "an example has a name", "add name: what it shows"
            )
            return None
        if not {"expect", "events"} & set(node.entries):
            self._note(
                node.place, self._path, "missing", "an example without expect: or events: shows nothing", "add expect: {step: [rows]}"
            )
        given = tuple(self._batch(b, path) for b, path in self._batches(node))
        rows = self._expectations(node, "expect", self._row)
        events = self._expectations(node, "events", self._event)
        return Example(subject, name.text, node.place, given, rows, events)

    def _batches(self, node: Section) -> Iterator[tuple[Section, str]]:
        path, given = f"{self._path}.given", node.entries.get("given")
        if given is None or (isinstance(given, Scalar) and given.value is None):
            return
        for number, batch in enumerate(given.items if isinstance(given, Items) else [given]):
            where = f"{path}[{number}]" if isinstance(given, Items) else path
            if isinstance(batch, Section):
                yield batch, where
            else:
                self._note(batch.place, where, "bad_value", "given maps topics to rows", "write topic: and below it - {column: value}")

    def _batch(self, batch: Section, path: str) -> dict[str, tuple[Change, ...]]:
        made = {}
        for topic, rows in batch.entries.items():
            where = f"{path}.{topic}"
            if topic not in self._inputs:
                cure = suggestion(topic, self._inputs, "topics that it reads")
                self._note(batch.keys[topic], where, "unknown_input", f"the pipeline does not read {topic}", cure)
            else:
                changes = (self._change(topic, n, p) for n, p in self._items(rows, where))
                made[topic] = tuple(c for c in changes if c is not None)
        return made

    def _items(self, node: Node, path: str) -> Iterator[tuple[Section, str]]:
        items = node.items if isinstance(node, Items) else () if isinstance(node, Scalar) and node.value is None else (node,)
        for number, item in enumerate(items):
            if isinstance(node, Items) and isinstance(item, Section):
                yield item, f"{path}[{number}]"
            else:
                self._note(item.place, path, "bad_value", "rows are a list, each of `column: value`", "write - {column: value}")

    def _change(self, topic: str, item: Section, path: str) -> Change | None:
        """The event, by what the topic holds so far."""
        schema, now = self._inputs[topic], self._now.setdefault(topic, {})
        word, row = _worded(item)
        given = self._columns(row, schema, path)
        key = self._key(row, given, schema, path)
        if key is None:
            return None
        there = now.get(key)
        if word in ("update", "delete") and there is None:
            self._note(row.place, path, "no_such_row", f"{topic} has no row {_shown_key(schema, key)} here to {word}", "insert it before")
            return None
        if word in ("insert", None) and there is not None:
            self._note(row.place, path, "row_twice", f"{topic} has the row {_shown_key(schema, key)} already", "write - update: {…}")
            return None
        if word == "delete":
            del now[key]
            return Change(DELETE, there, None)  # type: ignore[arg-type]
        now[key] = {**(there if there is not None and word == "update" else dict.fromkeys(schema.names)), **given}
        return Change(WORDS[word or "insert"], there if word == "update" else None, now[key])

    def _expectations(self, node: Section, what: str, expected: Any) -> dict[str, tuple[Place, tuple[Expected, ...]]]:
        path, steps = f"{self._path}.{what}", node.entries.get(what)
        if steps is None:
            return {}
        if not isinstance(steps, Section):
            self._note(
                steps.place,
                path,
                "bad_value",
                f"{what} maps steps to their {'rows' if what == 'expect' else what}",
                "write step: [{column: value}]",
            )
            return {}
        made = {}
        for step, rows in steps.entries.items():
            where = f"{path}.{step}"
            if step not in self._steps:
                cure = suggestion(step, self._steps, "steps")
                self._note(steps.keys[step], where, "unknown_step", f"the pipeline has no step {step}", cure)
                continue
            found = (expected(self._steps[step], n, p) for n, p in self._items(rows, where))
            made[step] = (steps.keys[step], tuple(e for e in found if e is not None))
        return made

    def _row(self, schema: RowSchema, item: Section, path: str) -> Expected | None:
        given = self._columns(item, schema, path)
        return Expected(given, item.place) if self._key(item, given, schema, path) is not None else None

    def _event(self, schema: RowSchema, item: Section, path: str) -> Expected | None:
        word, row = _worded(item)
        if word is None:
            self._note(item.place, path, "bad_value", "an event says what it does", f"write - insert: {{…}}; words: {', '.join(WORDS)}")
            return None
        return Expected(self._columns(row, schema, path), item.place, WORDS[word])

    def _columns(self, row: Section, schema: RowSchema, path: str) -> dict[str, Any]:
        """The columns that are written."""
        made = {}
        for name, node in row.entries.items():
            if name not in schema.names:
                cure = suggestion(name, schema.names, "columns")
                self._note(row.keys[name], f"{path}.{name}", "unknown_column", f"there is no column {name}", cure)
                continue
            try:
                made[name] = values.read(node, schema[name].type)
            except ValueError as e:
                wanted, _, cure = str(e).partition("; ")
                self._note(node.place, f"{path}.{name}", "bad_value", wanted, cure or "write a value of the column's type")
        return made

    def _key(self, row: Section, given: Row, schema: RowSchema, path: str) -> tuple[Any, ...] | None:
        missing = [k for k in schema.key if given.get(k) is None]
        if missing:
            unread = [k for k in missing if k in row.entries and not (isinstance(n := row.entries[k], Scalar) and n.value is None)]
            if not unread:  # else its value is complained of already
                self._note(
                    row.place, path, "key_missing", f"the row has no {', '.join(missing)}, which is of the key", f"add {missing[0]}: …"
                )
            return None
        return tuple(given[k] for k in schema.key)

    def _note(self, place: Place, path: str, code: str, message: str, cure: str) -> None:
        _note(self.mistakes, place, path, code, message, cure)


def _worded(item: Section) -> tuple[str | None, Section]:
    """insert, update, delete or read, with its row; or None and the row itself."""
    if len(item.entries) == 1:
        ((word, row),) = item.entries.items()
        if word in WORDS and isinstance(row, Section):
            return word, row
    return None, item


def _shown_key(schema: RowSchema, key: Sequence[Any]) -> str:
    return ", ".join(f"{name}={values.shown(v)}" for name, v in zip(schema.key, key, strict=True))


def _no_other_keys(section: Section, path: str, known: Sequence[str], mistakes: list[Diagnostic]) -> None:
    for key in section.entries:
        if key not in known:
            _note(
                mistakes, section.keys[key], f"{path}.{key}", "unknown_key", f"there is no key {key} here", suggestion(key, known, "keys")
            )


def _at(mistakes: list[Diagnostic], path: str, place: Place, code: str, message: str, cure: str) -> None:
    _note(mistakes, place, path, code, message, cure)


def _note(mistakes: list[Diagnostic], place: Place, path: str, code: str, message: str, cure: str) -> None:
    mistakes.append(Diagnostic(place.file, place.line, place.column, path, code, message, cure))
