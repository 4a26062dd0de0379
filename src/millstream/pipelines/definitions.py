"""What a project's files say, typed: the mesh, its sources, pipelines and products. Nothing here reads a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from millstream.errors import without_secrets
from millstream.pipelines.diagnostics import Diagnostic, Place
from millstream.pipelines.yaml import Node, Section
from millstream.schemas.rules import Mode, Rule

Evolve = Literal["pinned", "follow"]
"""What a consumer does where a schema that it reads changes: it stays with what it has accepted, or takes what is new."""


@dataclass(frozen=True)
class Evolving:
    """What a definition says of it: `whole`, and those of its `steps` that say so themselves."""

    whole: Evolve
    steps: Mapping[str, Evolve] = field(default_factory=dict)

    def of(self, step: str) -> Evolve:
        return self.steps.get(step, self.whole)


Places = Mapping[str, Place]
"""Definition path ("pipelines.rated.steps[0].sql") → where it stands."""


class Options(Mapping[str, Any]):
    """A component's options. As a mapping they are what they mean; shown, they are as written, with ${NAME} left in.

    Invariant 10: values from the environment do not get into a repr, an explanation or a plan's text.
    """

    def __init__(self, resolved: Mapping[str, Any], written: Mapping[str, Any]) -> None:
        self._resolved, self.written = dict(resolved), dict(written)

    def __getitem__(self, name: str) -> Any:
        return self._resolved[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._resolved)

    def __len__(self) -> int:
        return len(self._resolved)

    def __repr__(self) -> str:
        return without_secrets(repr(self.written))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and (self._resolved, self.written) == (other._resolved, other.written)

    def __hash__(self) -> int:
        return hash(repr(self.written))


@dataclass(frozen=True)
class MeshDefinition:
    """`state` is the folder for everything that the mesh keeps, relative to the project; `state_memory_mib` is what the state of
    each pipeline with a join may use of memory. What is younger than `history_s` stays whole in every topic; beyond that, `behind_mib`
    is kept of a topic for a reader that is behind. `compatibility` holds where neither the consumer nor who writes the topic says
    otherwise. `registry` are the options of the schema registry, `notify` those of telling owners."""

    name: str
    topics: str
    runner: str
    state: str = field(repr=False)
    state_memory_mib: int = 1024
    history_s: int = 7 * 86_400
    behind_mib: int = 4096
    compatibility: Mode = "consumer"
    registry: Options = field(default_factory=lambda: Options({}, {}))
    notify: Options = field(default_factory=lambda: Options({}, {}))


@dataclass(frozen=True)
class FieldDescription:
    """What is said of a column or member; `doc` is one line."""

    doc: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What is said of a topic, or of all topics of a source, pipeline or product. `fields`: column, or member (`cast.name`) → what is
    said of it. It counts in no comparison of definitions: no row is another for it.
    """

    doc: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    domain: str = ""
    fields: Mapping[str, FieldDescription] = field(default_factory=dict)

    def within(self, owner: str, domain: str) -> Description:
        """With the owner and domain of what it is part of, where it has none of its own."""
        return replace(self, owner=self.owner or owner, domain=self.domain or domain)


@dataclass(frozen=True)
class SourceDefinition:
    """`tables` as written ("public.movie"); a table's topic is `{name}.{table}`. `compatibility`: what its readers judge changes by,
    where they do not say otherwise. `domain` is a name that rules know it by. `described`: table → what is said of it.
    `derived`: of tables that come from others, how, as written (`table`, `as`, `select` …): the connector knows what it means."""

    name: str
    connector: str
    options: Options
    tables: tuple[str, ...]
    owner: str
    places: Places = field(repr=False, compare=False)
    compatibility: Mode | None = field(compare=False, default=None)
    domain: str = field(compare=False, default="")
    description: Description = field(repr=False, compare=False, default_factory=Description)
    described: Mapping[str, Description] = field(repr=False, compare=False, default_factory=dict)
    derived: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def entries(self) -> tuple[str | Mapping[str, Any], ...]:
        """The tables as the connector's options take them."""
        return tuple(self.derived.get(table, table) for table in self.tables)

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{table}" for table in self.tables)


@dataclass(frozen=True)
class StepDefinition:
    """`key` None: the step takes its input's. `marks`: the (line, column) of each character of `sql`, and of its end.

    `parts`, of SQL that was put together: from which offset on the text comes from which path of the definition, in order.
    `evolve` None: what the pipeline says.
    """

    name: str
    sql: str
    key: tuple[str, ...] | None
    path: str
    marks: tuple[tuple[int, int], ...] = field(repr=False, compare=False)
    parts: tuple[tuple[int, str], ...] = field(repr=False, compare=False, default=())
    description: Description = field(repr=False, compare=False, default_factory=Description)
    evolve: Evolve | None = field(compare=False, default=None)

    def part(self, offset: int) -> str:
        """The path of the definition that the SQL comes from at this offset."""
        return next((path for start, path in reversed(self.parts) if start <= offset), f"{self.path}.sql")


@dataclass(frozen=True)
class SinkDefinition:
    """`input` is a step's or a topic's name, `kind` a row of the list of sinks."""

    input: str
    kind: str
    options: Options
    path: str


@dataclass(frozen=True)
class Pushed:
    """What a step reads in a table's place: `topic`, of a derived table. `compared`: the columns that its condition reads, each with
    whether it asks if there is a value."""

    topic: str
    compared: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class PipelineDefinition:
    """`read` says where joined steps find the rows of other tables. `examples` as written: they are read when they are run.
    `portable` False: it runs locally only, and may call any DuckDB function whose answer does not change by itself.
    `push_down`: the source is to leave out what the first step leaves out; `instead`: topic as written → what is read then.
    """

    name: str
    owner: str
    steps: tuple[StepDefinition, ...]
    sinks: tuple[SinkDefinition, ...]
    places: Places = field(repr=False, compare=False)
    examples: Node | None = field(repr=False, compare=False, default=None)
    read: Literal["copies", "source"] = "copies"
    portable: bool = True
    compatibility: Mode | None = field(compare=False, default=None)
    domain: str = field(compare=False, default="")
    description: Description = field(repr=False, compare=False, default_factory=Description)
    evolve: Evolve = field(compare=False, default="pinned")
    push_down: bool = False
    instead: Mapping[str, Pushed] = field(default_factory=dict)

    @property
    def evolving(self) -> Evolving:
        return Evolving(self.evolve, {s.name: s.evolve for s in self.steps if s.evolve is not None})

    def place(self, path: str) -> Place:
        """Where `path` stands, or the nearest part of the definition around it."""
        while path not in self.places and "." in path:
            path = path.rpartition(".")[0]
        return self.places[path]

    def mistake(self, path: str, code: str, message: str, cure: str) -> Diagnostic:
        at = self.place(path)
        return Diagnostic(at.file, at.line, at.column, path, code, message, cure)


@dataclass(frozen=True)
class Written:
    """A piece of a product's text. `marks`: the (line, column) of each of its characters, and of its end."""

    text: str
    path: str
    marks: tuple[tuple[int, int], ...] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Member:
    """A member of a document: a column of the table by its name (`value` None), all of its columns ("*"), or an expression."""

    name: Written
    value: Written | None = None


@dataclass(frozen=True)
class Table:
    """A topic and what the product calls it. `on` None: the root. A table that is joined need not have a row."""

    topic: Written
    alias: str
    on: Written | None
    path: str


@dataclass(frozen=True)
class Nest:
    """A part of the tree, below `table` and the tables `joined` to each of its rows.

    `makes`: "each" a list of the rows, "one" the one row or null, "value" an aggregate of the rows; the root is "root". What it
    is made of: `members` (a record), or one expression, `value`. `order` and `limit` are a list's.
    """

    name: Written
    makes: Literal["root", "each", "one", "value"]
    table: Table
    joined: tuple[Table, ...]
    where: Written | None
    members: tuple[Member, ...]
    value: Written | None
    order: tuple[Written, ...]
    limit: int | None
    nest: tuple[Nest, ...]
    path: str

    @property
    def tables(self) -> tuple[Table, ...]:
        return (self.table, *self.joined)

    def everywhere(self) -> Iterator[Nest]:
        """It and all parts below it."""
        yield self
        for part in self.nest:
            yield from part.everywhere()


@dataclass(frozen=True)
class ProductDefinition:
    """A document woven from many tables. `key` None: the key of the root's table. `text` is the definition as data (YAML), with
    ${NAME} left in: what reads back as this very definition. `examples`, `compatibility`, `domain` and `description` are no part of
    that."""

    name: str
    owner: str
    read: Literal["copies", "source"]
    key: tuple[str, ...] | None
    root: Nest
    sinks: tuple[SinkDefinition, ...]
    text: str
    places: Places = field(repr=False, compare=False)
    examples: Node | None = field(repr=False, compare=False, default=None)
    compatibility: Mode | None = field(compare=False, default=None)
    domain: str = field(compare=False, default="")
    description: Description = field(repr=False, compare=False, default_factory=Description)
    evolve: Evolve = field(compare=False, default="pinned")

    @property
    def path(self) -> str:
        return f"products.{self.name}"

    @property
    def evolving(self) -> Evolving:
        return Evolving(self.evolve)


@dataclass(frozen=True)
class SearchDefinition:
    """A saved search over the documents of a product; `query` is in the search language."""

    name: str
    product: str
    query: str
    owner: str
    places: Places = field(repr=False, compare=False)

    @property
    def place(self) -> Place:
        return self.places[f"searches.{self.name}"]


def _unread(text: str, called: str) -> ProductDefinition:
    raise ValueError(f"{called}: this project was not read from files")


@dataclass(frozen=True)
class Project:
    """`secrets` are the values that came from the environment (4 characters or more): no output may hold them. `tests` are the
    documents of tests/*.yaml as written. `reread` reads the text of a product's definition that the catalogue kept; its second
    argument stands for the file in mistakes. `rules` judge changes of schemas."""

    root: Path
    mesh: MeshDefinition
    sources: tuple[SourceDefinition, ...]
    pipelines: tuple[PipelineDefinition, ...]
    secrets: frozenset[str] = field(repr=False, default=frozenset())
    products: tuple[ProductDefinition, ...] = ()
    tests: tuple[Section, ...] = field(repr=False, compare=False, default=())
    reread: Callable[[str, str], ProductDefinition] = field(repr=False, compare=False, default=_unread)
    searches: tuple[SearchDefinition, ...] = ()
    rules: tuple[Rule, ...] = field(repr=False, compare=False, default=())
