"""A project folder → its definitions: mesh.yaml and the files in sources/, pipelines/, products/, searches/, rules/ and tests/. Every
mistake of all at once.

Components are known by the lists handed in; SQL is read by `compile.py`. Values from the environment (`${NAME}`, `$${` for
a plain `${`) go into the options of sources, sinks and the registry and the state folder only: names and SQL are shown to everyone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from millstream.components import Component, find
from millstream.notices.kinds import NOTIFY
from millstream.pipelines.definitions import (
    Description,
    MeshDefinition,
    Options,
    PipelineDefinition,
    ProductDefinition,
    Project,
    SearchDefinition,
    SinkDefinition,
    SourceDefinition,
    StepDefinition,
)
from millstream.pipelines.descriptionfiles import DESCRIBES
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject, Place
from millstream.pipelines.productfiles import ProductReading, read_product
from millstream.pipelines.pushdown import pushed
from millstream.pipelines.reading import place_of, written
from millstream.pipelines.rulefiles import load_rules
from millstream.pipelines.searches import FOLDER, SearchReading
from millstream.pipelines.sql.mistakes import suggestion
from millstream.pipelines.yaml import Node, Scalar, Section, documents
from millstream.schemas.kinds import REGISTRY

_TABLE = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_PART_DESCRIBES = tuple(k for k in DESCRIBES if k != "fields")
_MEMORY_MIB_MIN = 64
_HISTORY = re.compile(r"([1-9]\d{0,5})([mhd])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}
_SECRET_MIN = 4  # shorter values would blot out half of every text


def load(root: Path, env: Mapping[str, str], sources: tuple[Component, ...], sinks: tuple[Component, ...]) -> Project:
    """The project in the folder `root`. `sources` and `sinks` are the lists of kinds. Raises InvalidProject with all mistakes."""
    return _Load(root, env, sources, sinks).project()


def load_mesh(root: Path, env: Mapping[str, str]) -> MeshDefinition:
    """What mesh.yaml alone says, for those who need no more of the project. Raises InvalidProject with all its mistakes."""
    return _Load(root, env, (), ()).mesh()


def load_searches(root: Path, env: Mapping[str, str]) -> tuple[SearchDefinition, ...]:
    """The saved searches alone. Raises InvalidProject with all mistakes of their files."""
    return _Load(root, env, (), ()).searches()


class _Load(ProductReading, SearchReading):
    def __init__(self, root: Path, env: Mapping[str, str], sources: tuple[Component, ...], sinks: tuple[Component, ...]) -> None:
        super().__init__(env, sinks)
        self._root, self._sources = root, sources

    def mesh(self) -> MeshDefinition:
        mesh = self._mesh()
        if self._mistakes or mesh is None:
            raise InvalidProject(self._mistakes)
        return mesh

    def project(self) -> Project:
        mesh = self._mesh()
        sources = tuple(s for s in map(self._source, self._documents("sources")) if s)
        pipelines = tuple(p for p in map(self._pipeline, self._documents("pipelines")) if p)
        products = tuple(p for p in map(self._product, self._documents("products")) if p)
        searches = self._all_searches()
        tests = tuple(self._documents("tests"))
        rules, mistaken = load_rules(self._root)
        self._mistakes += mistaken
        self._unique(sources, pipelines, products)
        self._indexes(pipelines, products)
        self._searches_fit(searches, [p.name for p in products])
        sources, pipelines, unfit = pushed(sources, pipelines, {c.name for c in self._sources if c.derives})
        self._mistakes += unfit
        if self._mistakes or mesh is None:
            raise InvalidProject(self._mistakes)
        secrets = frozenset(s for s in self._secrets if len(s) >= _SECRET_MIN)
        reread = partial(read_product, env=self._env, sinks=self._sinks)
        return Project(self._root, mesh, sources, pipelines, secrets, products, tests, reread, searches, rules)

    def searches(self) -> tuple[SearchDefinition, ...]:
        searches = self._all_searches()
        if self._mistakes:
            raise InvalidProject(self._mistakes)
        return searches

    def _all_searches(self) -> tuple[SearchDefinition, ...]:
        return tuple(s for s in map(self._search, self._documents(FOLDER)) if s)

    # ---- files ----------------------------------------------------------------------------------------------------
    def _read(self, path: Path) -> list[Section]:
        file = path.relative_to(self._root).as_posix()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            reason = "it is not UTF-8 text" if isinstance(e, UnicodeDecodeError) else str(e.strerror)
            self._mistakes.append(Diagnostic(file, 1, 1, "", "file_unreadable", f"the file cannot be read: {reason}", "mend the file"))
            return []
        return documents(file, text, self._mistakes)

    def _documents(self, folder: str) -> Iterator[Section]:
        for path in sorted((self._root / folder).glob("*")):
            if path.suffix == ".yaml":
                yield from self._read(path)
            elif path.suffix == ".yml":
                file = path.relative_to(self._root).as_posix()
                self._mistakes.append(Diagnostic(file, 1, 1, "", "not_read", "only *.yaml is read", f"rename it to {path.stem}.yaml"))

    # ---- the three kinds of document -------------------------------------------------------------------------------
    def _mesh(self) -> MeshDefinition | None:
        path = self._root / "mesh.yaml"
        if not path.is_file():
            cure = "run `millstream init`, or go to the folder that has one"
            self._mistakes.append(Diagnostic("mesh.yaml", 1, 1, "mesh", "no_mesh", "there is no mesh.yaml here: this is no project", cure))
            return None
        found = self._read(path)
        if len(found) != 1:
            if found:
                self._note(found[1].place, "mesh", "mesh_twice", "mesh.yaml has several documents", "keep one")
            elif not self._mistakes:
                self._mistakes.append(Diagnostic("mesh.yaml", 1, 1, "mesh", "missing", "mesh.yaml is empty", "write `mesh: name`"))
            return None
        section = found[0]
        keys = ("mesh", "topics", "runner", "state", "state_memory_mib", "history", "behind_mib", "compatibility", "registry", "notify")
        self._keys(section, "mesh", keys)
        name = self._name(section, "mesh", "mesh")
        topics = self._choice(section, "topics", ("local",))
        runner = self._choice(section, "runner", ("local",))
        node = section.entries.get("state")
        state = self._resolved(node, "mesh.state") if node else ".millstream"
        if not isinstance(state, str) or not state:
            self._note(section.keys["state"], "mesh.state", "bad_value", "state is the path of a folder", "write state: .millstream")
            return None
        memory, behind = self._mib(section, "state_memory_mib", _MEMORY_MIB_MIN), self._mib(section, "behind_mib", 1)
        mode = self._compatibility(section, "mesh") or MeshDefinition.compatibility
        registry = self._of_mesh(section, "registry", REGISTRY, "{listen: 127.0.0.1:8081}, or registry: {url: https://…}")
        notify = self._of_mesh(section, "notify", NOTIFY, "{webhook: ${HOOK_URL}, webhook_hosts: [hooks.example.com]}")
        known = (topics, runner, state, memory, self._history(section), behind, mode, registry, notify)
        return MeshDefinition(name, *known) if name else None

    def _of_mesh(self, section: Section, key: str, component: Component, example: str) -> Options:
        """The options of a part of the mesh that has some."""
        node = section.entries.get(key)
        if isinstance(node, Section):
            self._enter(node, f"mesh.{key}")
            return self._options(node, component, f"mesh.{key}")
        if node is not None:
            self._note(node.place, f"mesh.{key}", "bad_value", f"{key} is a list of options", f"write {key}: {example}")
        return Options({}, {})

    def _mib(self, section: Section, key: str, least: int) -> int:
        usual: int = getattr(MeshDefinition, key)
        node = section.entries.get(key)
        if node is None:
            return usual
        given = self._resolved(node, f"mesh.{key}")
        if isinstance(given, int) and not isinstance(given, bool) and given >= least:
            return given
        cure = f"write a number of MiB from {least} up, such as {4 * usual}"
        self._note(section.keys[key], f"mesh.{key}", "bad_value", f"{key} is a number of MiB", cure)
        return usual

    def _history(self, section: Section) -> int:
        """Seconds."""
        node = section.entries.get("history")
        if node is None:
            return MeshDefinition.history_s
        given = self._resolved(node, "mesh.history")
        if isinstance(given, str) and (found := _HISTORY.fullmatch(given)):
            return int(found[1]) * _UNITS_S[found[2]]
        cure = "write a whole number of minutes, hours or days, such as 90m, 36h or 7d"
        self._note(section.keys["history"], "mesh.history", "bad_value", "history is how long topics are kept whole", cure)
        return MeshDefinition.history_s

    def _source(self, section: Section) -> SourceDefinition | None:
        name = self._name(section, "source", "sources.?")
        path = f"sources.{name or '?'}"
        self._enter(section, path)
        owner = self._text(section, "owner", path)
        tables, described, derived = self._tables(section, path)
        description = self._description(section, path)
        kind = self._text(section, "connector", path)
        component = find(self._sources, kind) if kind else None
        if kind and component is None:
            cure = suggestion(kind, [c.name for c in self._sources], "connectors")
            self._note(place_of(section, "connector"), f"{path}.connector", "unknown_connector", f"there is no connector {kind}", cure)
        own = ("source", "connector", "tables", "owner", "compatibility", *_PART_DESCRIBES)
        rest = Section({k: v for k, v in section.entries.items() if k not in own}, section.keys, section.place)
        entries = tuple(derived.get(table, table) for table in tables)
        options = self._options(rest, component, path, own, {"tables": entries} if tables else {})
        mode, domain, places = self._compatibility(section, path), self._domain(section, path), self._part(path)
        if not name or not kind:
            return None
        return SourceDefinition(name, kind, options, tables, owner, places, mode, domain, description, described, derived)

    def _pipeline(self, section: Section) -> PipelineDefinition | None:
        name = self._name(section, "pipeline", "pipelines.?")
        path = f"pipelines.{name or '?'}"
        self._enter(section, path)
        own = ("pipeline", "owner", "read", "portable", "push_down", "evolve", "compatibility", "steps", "sinks", "examples")
        keys = (*own, *_PART_DESCRIBES)
        self._keys(section, path, keys)
        owner = self._text(section, "owner", path)
        read, portable, evolve = self._read_from(section, path), self._portable(section, path), self._evolve(section, path) or "pinned"
        push_down = self._push_down(section, path)
        mode, domain = self._compatibility(section, path), self._domain(section, path)
        description = self._description(section, path)
        steps = tuple(s for i, n in enumerate(self._items(section, "steps", path)) if (s := self._step(n, f"{path}.steps[{i}]")))
        sinks = tuple(k for i, n in enumerate(self._items(section, "sinks", path)) if (k := self._sink(n, f"{path}.sinks[{i}]")))
        if not {"steps", "sinks"} & set(section.entries):
            self._note(section.place, path, "missing", "a pipeline without steps or sinks does nothing", "add steps: or sinks:")
        seen: set[str] = set()
        for step in steps:
            if step.name in seen:
                self._note(
                    self._places[f"{step.path}.name"], f"{step.path}.name", "name_twice", f"two steps are called {step.name}", "rename one"
                )
            seen.add(step.name)
        if not name:
            return None
        examples, places = section.entries.get("examples"), self._part(path)
        return PipelineDefinition(name, owner, steps, sinks, places, examples, read, portable, mode, domain, description, evolve, push_down)

    def _step(self, node: Node, path: str) -> StepDefinition | None:
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", "a step is a list of `key: value`", "write - name: … and sql: …")
            return None
        self._enter(node, path)
        self._keys(node, path, ("name", "sql", "key", "evolve", "owner", *DESCRIBES))
        name = self._name(node, "name", path)
        sql = self._text(node, "sql", path)
        key = self._names(node, "key", path) if "key" in node.entries else None
        scalar, description, evolve = node.entries.get("sql"), self._description(node, path), self._evolve(node, path)
        if not name or not sql or not isinstance(scalar, Scalar):
            return None
        return StepDefinition(name, sql, key, path, scalar.marks(), description=description, evolve=evolve)

    def _sink(self, node: Node, path: str) -> SinkDefinition | None:
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", "a sink is a list of `key: value`", "write - {from: step, kind: {options}}")
            return None
        self._enter(node, path)
        source = self._text(node, "from", path)
        target = self._target(node, path, beside=("from",))
        if target is None:
            return None
        kind, options, component = target
        checked = self._options(options, component, f"{path}.{kind}")
        return SinkDefinition(source, kind, checked, path) if source else None

    # ---- values ---------------------------------------------------------------------------------------------------
    def _choice(self, section: Section, key: str, choices: tuple[str, ...]) -> str:
        value = self._text(section, key, "mesh", required=False) or choices[0]
        if value not in choices:
            message = f"{key} cannot be {value} in this version"
            self._note(place_of(section, key), f"mesh.{key}", "bad_value", message, f"write {key}: {' or '.join(choices)}")
        return value

    def _tables(self, section: Section, path: str) -> tuple[tuple[str, ...], dict[str, Description], dict[str, dict[str, Any]]]:
        """The tables' names, what is said of those that stand as `name: {doc, tags, owner, domain, fields}` or are derived, and how these
        come from others."""
        nodes = self._items(section, "tables", path)
        if not nodes and not isinstance(section.entries.get("tables"), Scalar | Section):
            self._note(place_of(section, "tables"), f"{path}.tables", "missing", "a source needs tables", "add tables: [schema.table]")
        names: list[str] = []
        described: dict[str, Description] = {}
        derived: dict[str, dict[str, Any]] = {}
        for i, node in enumerate(nodes):
            here = f"{path}.tables[{i}]"
            if isinstance(node, Section) and isinstance(node.entries.get("table"), Scalar):
                name, said = self._derived(node, here, derived), node if set(node.entries) & {"owner", *DESCRIBES} else None
            else:
                name, said = self._table_named(node, here)
            if name and not _TABLE.fullmatch(name):
                self._note(node.place, here, "bad_name", f"{name!r} is no table's name", "write schema.table")
            if said is not None:
                described[name] = self._description(said, here)
            self._places[here] = node.place
            names.append(name)
        self._no_repeats(names, nodes, f"{path}.tables")
        return tuple(n for n in names if n), described, derived

    def _derived(self, node: Section, path: str, derived: dict[str, dict[str, Any]]) -> str:
        """Its name. What `select`, `where` and `outbox` may be, the connector says."""
        self._enter(node, path)
        self._keys(node, path, ("table", "as", "select", "where", "outbox", "owner", *DESCRIBES))
        name = self._text(node, "as", path, required=False) or self._text(node, "table", path)
        derived[name] = {k: written(v) for k, v in node.entries.items() if k not in ("owner", *DESCRIBES)}
        return name

    def _table_named(self, node: Node, path: str) -> tuple[str, Section | None]:
        if not isinstance(node, Section):
            return self._plain(node, path, "a table's name"), None
        name, said = next(iter(node.entries.items()), ("", node))
        if len(node.entries) != 1 or not isinstance(said, Section):
            self._note(node.place, path, "bad_value", "a table is a name, or a name and what is said of it", f"write - {name}: {{doc: …}}")
            return name, None
        self._enter(said, path)
        self._keys(said, path, ("owner", *DESCRIBES))
        return name, said

    # ---- checks over several ----------------------------------------------------------------------------------------
    def _unique(
        self, sources: tuple[SourceDefinition, ...], pipelines: tuple[PipelineDefinition, ...], products: tuple[ProductDefinition, ...]
    ) -> None:
        seen: dict[str, tuple[str, Place]] = {}
        groups: tuple[tuple[str, Iterable[SourceDefinition | PipelineDefinition | ProductDefinition], str], ...] = (
            ("source", sources, "sources"),
            ("pipeline", pipelines, "pipelines"),
            ("product", products, "products"),
        )
        for what, group, key in groups:
            for d in group:
                place = d.places[f"{key}.{d.name}"]
                if d.name in seen:
                    other, at = seen[d.name]
                    shared = "sources, pipelines and products share their names, which begin their topics'"
                    cure = f"rename one: {shared} ({other} in {at.file}:{at.line})"
                    self._note(place, f"{key}.{d.name}", "name_twice", f"{what} {d.name}: {other} has this name already", cure)
                seen.setdefault(d.name, (f"a {what}", place))

    def _indexes(self, pipelines: tuple[PipelineDefinition, ...], products: tuple[ProductDefinition, ...]) -> None:
        """A product's search index is its own: who asks for it is led to one of its generations."""
        seen = {str(s.options["index"]): f"pipeline {p.name}" for p in pipelines for s in p.sinks if "index" in s.options}
        for product in products:
            for sink in product.sinks:
                index = str(sink.options.get("index", ""))
                path = f"{sink.path}.{sink.kind}.index"
                if "@" in index:
                    cure = "leave the number out: each generation of the product gets its own"
                    self._note(self._near(path, product.places[product.path]), path, "bad_option", f"{index} names a generation", cure)
                if index in seen:
                    message = f"{seen[index]} fills an index {index} already"
                    self._note(
                        self._near(path, product.places[product.path]), path, "index_twice", message, "give one of them another name"
                    )
                if index:
                    seen.setdefault(index, f"product {product.name}")
