"""A project folder → its definitions: mesh.yaml, sources/*.yaml, pipelines/*.yaml. Every mistake of every file at once.

Components are known by the lists handed in; SQL is read by `compile.py`. Values from the environment (`${NAME}`, `$${` for
a plain `${`) go into the options of sources and sinks and the state folder only: names and SQL are shown to everyone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from millstream.components import Component, find
from millstream.errors import without_secrets
from millstream.pipelines.definitions import (
    MeshDefinition,
    Options,
    PipelineDefinition,
    Project,
    SinkDefinition,
    SourceDefinition,
    StepDefinition,
)
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject, Place
from millstream.pipelines.sql.mistakes import nearest, suggestion
from millstream.pipelines.yaml import Items, Node, Scalar, Section, documents

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_TABLE = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_MEMORY_MIB_MIN = 64
_SECRET_MIN = 4  # shorter values would blot out half of every text
_NAME_CURE = "use small letters, digits and _, beginning with a letter"


def load(root: Path, env: Mapping[str, str], sources: tuple[Component, ...], sinks: tuple[Component, ...]) -> Project:
    """The project in the folder `root`. `sources` and `sinks` are the lists of kinds. Raises InvalidProject with all mistakes."""
    return _Load(root, env, sources, sinks).project()


class _Load:
    def __init__(self, root: Path, env: Mapping[str, str], sources: tuple[Component, ...], sinks: tuple[Component, ...]) -> None:
        self._root, self._env, self._sources, self._sinks = root, env, sources, sinks
        self._mistakes: list[Diagnostic] = []
        self._secrets: set[str] = set()
        self._places: dict[str, Place] = {}

    def project(self) -> Project:
        mesh = self._mesh()
        sources = tuple(s for s in map(self._source, self._documents("sources")) if s)
        pipelines = tuple(p for p in map(self._pipeline, self._documents("pipelines")) if p)
        self._unique(sources, pipelines)
        if self._mistakes or mesh is None:
            raise InvalidProject(self._mistakes)
        return Project(self._root, mesh, sources, pipelines, frozenset(s for s in self._secrets if len(s) >= _SECRET_MIN))

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
        self._keys(section, "mesh", ("mesh", "topics", "runner", "state", "state_memory_mib"))
        name = self._name(section, "mesh", "mesh")
        topics = self._choice(section, "topics", ("local",))
        runner = self._choice(section, "runner", ("local",))
        node = section.entries.get("state")
        state = self._resolved(node, "mesh.state") if node else ".millstream"
        if not isinstance(state, str) or not state:
            self._note(section.keys["state"], "mesh.state", "bad_value", "state is the path of a folder", "write state: .millstream")
            return None
        return MeshDefinition(name, topics, runner, state, self._memory(section)) if name else None

    def _memory(self, section: Section) -> int:
        node = section.entries.get("state_memory_mib")
        if node is None:
            return MeshDefinition.state_memory_mib
        memory = self._resolved(node, "mesh.state_memory_mib")
        if isinstance(memory, int) and memory >= _MEMORY_MIB_MIN:
            return memory
        cure = f"write a number of MiB from {_MEMORY_MIB_MIN} up, such as 4096"
        self._note(section.keys["state_memory_mib"], "mesh.state_memory_mib", "bad_value", "state_memory_mib is a number of MiB", cure)
        return MeshDefinition.state_memory_mib

    def _source(self, section: Section) -> SourceDefinition | None:
        name = self._name(section, "source", "sources.?")
        path = f"sources.{name or '?'}"
        self._enter(section, path)
        owner = self._text(section, "owner", path)
        tables = self._tables(section, path)
        kind = self._text(section, "connector", path)
        component = find(self._sources, kind) if kind else None
        if kind and component is None:
            cure = suggestion(kind, [c.name for c in self._sources], "connectors")
            self._note(_place(section, "connector"), f"{path}.connector", "unknown_connector", f"there is no connector {kind}", cure)
        own = ("source", "connector", "tables", "owner")
        rest = Section({k: v for k, v in section.entries.items() if k not in own}, section.keys, section.place)
        options = self._options(rest, component, path, own, {"tables": tables} if tables else {})
        return SourceDefinition(name, kind, options, tables, owner, self._part(path)) if name and kind else None

    def _pipeline(self, section: Section) -> PipelineDefinition | None:
        name = self._name(section, "pipeline", "pipelines.?")
        path = f"pipelines.{name or '?'}"
        self._enter(section, path)
        self._keys(section, path, ("pipeline", "owner", "steps", "sinks"))
        owner = self._text(section, "owner", path)
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
        return PipelineDefinition(name, owner, steps, sinks, self._part(path)) if name else None

    def _step(self, node: Node, path: str) -> StepDefinition | None:
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", "a step is a list of `key: value`", "write - name: … and sql: …")
            return None
        self._enter(node, path)
        self._keys(node, path, ("name", "sql", "key"))
        name = self._name(node, "name", path)
        sql = self._text(node, "sql", path)
        key = self._names(node, "key", path) if "key" in node.entries else None
        scalar = node.entries.get("sql")
        if not name or not sql or not isinstance(scalar, Scalar):
            return None
        return StepDefinition(name, sql, key, path, scalar.marks())

    def _sink(self, node: Node, path: str) -> SinkDefinition | None:
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", "a sink is a list of `key: value`", "write - {from: step, kind: {options}}")
            return None
        self._enter(node, path)
        source = self._text(node, "from", path)
        kinds = [k for k in node.entries if k != "from"]
        names = [c.name for c in self._sinks]
        if len(kinds) != 1:
            self._note(node.place, path, "bad_sink", f"a sink has from: and one kind, this has {len(kinds)}", f"kinds: {', '.join(names)}")
            return None
        kind, options = kinds[0], node.entries[kinds[0]]
        component = find(self._sinks, kind)
        if component is None:
            cure = suggestion(kind, names, "kinds of sink")
            self._note(node.keys[kind], f"{path}.{kind}", "unknown_sink", f"there is no kind of sink {kind}", cure)
            return None
        if isinstance(options, Scalar) and options.value is None:
            options = Section({}, {}, options.place)
        if not isinstance(options, Section):
            self._note(options.place, f"{path}.{kind}", "bad_value", f"{kind} takes a list of options", f"write {kind}: {{option: value}}")
            return None
        self._enter(options, f"{path}.{kind}")
        checked = self._options(options, component, f"{path}.{kind}")
        return SinkDefinition(source, kind, checked, path) if source else None

    # ---- values ---------------------------------------------------------------------------------------------------
    def _options(
        self,
        section: Section,
        component: Component | None,
        path: str,
        beside: tuple[str, ...] = (),
        also: Mapping[str, Any] = MappingProxyType({}),
    ) -> Options:
        """The options, checked by their component. `beside` are keys that are not options; `also` is checked with them."""
        before = len(self._mistakes)
        resolved = {k: self._resolved(v, f"{path}.{k}") for k, v in section.entries.items()}
        readable = len(self._mistakes) == before
        secret = _secret_options(component) if component else frozenset()
        options = Options(resolved, {k: _shown(v) if k in secret else _written(v) for k, v in section.entries.items()})
        if component is None:
            return options
        names = [f.alias or name for name, f in component.options.model_fields.items()]
        self._keys(section, path, [*beside, *names])
        if not readable:
            return options  # a variable is missing: what its option would be cannot be judged
        given = {k: v for k, v in {**resolved, **also}.items() if k in names}
        try:
            component.options.model_validate(given)
        except ValidationError as e:
            for error in e.errors(include_url=False, include_context=False, include_input=False):
                where = path + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"])
                message = without_secrets(error["msg"], sorted(self._secrets, key=len, reverse=True))
                if error["type"] == "missing":
                    self._note(section.place, where, "missing", f"{component.name} needs {error['loc'][-1]}", f"add {error['loc'][-1]}:")
                else:
                    self._note(self._near(where, section.place), where, "bad_option", message, f"see the options of {component.name}")
        return options

    def _resolved(self, node: Node, path: str) -> Any:
        """The value with the environment's put in. What it came from is remembered as secret."""
        if isinstance(node, Section):
            self._enter(node, path)
            return {k: self._resolved(v, f"{path}.{k}") for k, v in node.entries.items()}
        self._places.setdefault(path, node.place)
        if isinstance(node, Items):
            return [self._resolved(v, f"{path}[{i}]") for i, v in enumerate(node.items)]
        if "${" not in node.text:
            return node.value
        return _VARIABLE.sub(lambda m: self._variable(m, node.place, path), node.text)

    def _variable(self, match: re.Match[str], place: Place, path: str) -> str:
        if match[0] == "$${":
            return "${"
        name = match[1]
        if not match[0].endswith("}") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            self._note(place, path, "bad_variable", "${ begins a variable that is not one", "write ${NAME}, or $${ for a plain ${")
        elif name not in self._env:
            near = nearest(name, [n for n in self._env if "_" in n or n.isupper()])
            cure = f"set it, or write $${{{name}}} if the text is meant" + (f"; did you mean {near}?" if near else "")
            self._note(place, path, "unknown_variable", f"the environment has no {name}", cure)
        else:
            self._secrets.add(self._env[name])
            return self._env[name]
        return ""

    def _text(self, section: Section, key: str, path: str, required: bool = True) -> str:
        node = section.entries.get(key)
        where = f"{path}.{key}"
        if node is None:
            if required:
                self._note(section.place, where, "missing", f"{key}: is missing", f"add {key}:")
            return ""
        return self._plain(node, where, key)

    def _plain(self, node: Node, where: str, what: str) -> str:
        """Text that everyone may see: without variables."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value.strip():
            self._note(node.place, where, "bad_value", f"{what} is text", f"write {what}: …")
            return ""
        if re.search(r"(?<!\$)\$\{", node.value):
            cure = "write it out; variables are for the options of sources and sinks"
            self._note(node.place, where, "variable_not_here", f"{what} cannot hold ${{…}}: it is shown in plans and topics", cure)
            return ""
        return node.value

    def _name(self, section: Section, key: str, path: str) -> str:
        name = self._text(section, key, path)
        if name and not _NAME.fullmatch(name):
            where = path if path == key else f"{path}.{key}"
            self._note(_place(section, key), where, "bad_name", f"{name!r} cannot be a name", _NAME_CURE)
            return ""
        return name

    def _choice(self, section: Section, key: str, choices: tuple[str, ...]) -> str:
        value = self._text(section, key, "mesh", required=False) or choices[0]
        if value not in choices:
            message = f"{key} cannot be {value} in this version"
            self._note(_place(section, key), f"mesh.{key}", "bad_value", message, f"write {key}: {' or '.join(choices)}")
        return value

    def _items(self, section: Section, key: str, path: str) -> tuple[Node, ...]:
        node = section.entries.get(key)
        if node is None:
            return ()
        if not isinstance(node, Items):
            self._note(node.place, f"{path}.{key}", "bad_value", f"{key} is a list", f"begin each of the {key} with -")
            return ()
        return node.items

    def _names(self, section: Section, key: str, path: str) -> tuple[str, ...]:
        nodes = self._items(section, key, path)
        if not nodes and isinstance(section.entries.get(key), Items):
            self._note(section.keys[key], f"{path}.{key}", "bad_value", f"{key} is empty", f"name at least one column: {key}: [id]")
        names = [self._plain(n, f"{path}.{key}[{i}]", "a column's name") for i, n in enumerate(nodes)]
        self._places.update({f"{path}.{key}[{i}]": n.place for i, n in enumerate(nodes)})
        self._no_repeats(names, nodes, f"{path}.{key}")
        return tuple(n for n in names if n)

    def _tables(self, section: Section, path: str) -> tuple[str, ...]:
        nodes = self._items(section, "tables", path)
        if not nodes and not isinstance(section.entries.get("tables"), Scalar | Section):
            self._note(_place(section, "tables"), f"{path}.tables", "missing", "a source needs tables", "add tables: [schema.table]")
        names = [self._plain(n, f"{path}.tables[{i}]", "a table's name") for i, n in enumerate(nodes)]
        for i, (name, node) in enumerate(zip(names, nodes, strict=True)):
            if name and not _TABLE.fullmatch(name):
                self._note(node.place, f"{path}.tables[{i}]", "bad_name", f"{name!r} is no table's name", "write schema.table")
        self._no_repeats(names, nodes, f"{path}.tables")
        self._places.update({f"{path}.tables[{i}]": n.place for i, n in enumerate(nodes)})
        return tuple(n for n in names if n)

    # ---- checks over several ----------------------------------------------------------------------------------------
    def _no_repeats(self, names: list[str], nodes: tuple[Node, ...], path: str) -> None:
        for i, name in enumerate(names):
            if name and name in names[:i]:
                self._note(nodes[i].place, f"{path}[{i}]", "name_twice", f"{name} is there twice", "keep one")

    def _keys(self, section: Section, path: str, known: Iterable[str]) -> None:
        for key in section.entries:
            if key not in (names := tuple(known)):
                cure = suggestion(key, names, "keys")
                self._note(section.keys[key], f"{path}.{key}", "unknown_key", f"there is no key {key} here", cure)

    def _unique(self, sources: tuple[SourceDefinition, ...], pipelines: tuple[PipelineDefinition, ...]) -> None:
        seen: dict[str, tuple[str, Place]] = {}
        for what, group, key in (("source", sources, "sources"), ("pipeline", pipelines, "pipelines")):
            for d in group:
                place = d.places[f"{key}.{d.name}"]
                if d.name in seen:
                    other, at = seen[d.name]
                    cure = (
                        f"rename one: sources and pipelines share their names, which begin their topics' ({other} in {at.file}:{at.line})"
                    )
                    self._note(place, f"{key}.{d.name}", "name_twice", f"{what} {d.name}: {other} has this name already", cure)
                seen.setdefault(d.name, (f"a {what}", place))

    # ---- places -----------------------------------------------------------------------------------------------------
    def _enter(self, section: Section, path: str) -> None:
        self._places[path] = section.place
        for key, node in section.entries.items():
            self._places[f"{path}.{key}"] = node.place

    def _part(self, path: str) -> dict[str, Place]:
        return {p: at for p, at in self._places.items() if p == path or p.startswith((path + ".", path + "["))}

    def _near(self, path: str, default: Place) -> Place:
        while path not in self._places:
            shorter = re.sub(r"(\.[^.\[]+|\[\d+\])$", "", path)
            if shorter == path:
                return default
            path = shorter
        return self._places[path]

    def _note(self, place: Place, path: str, code: str, message: str, cure: str) -> None:
        self._mistakes.append(Diagnostic(place.file, place.line, place.column, path, code, message, cure))


def _secret_options(component: Component) -> frozenset[str]:
    fields = component.options.model_fields.items()
    return frozenset(f.alias or name for name, f in fields if "Secret" in str(f.annotation))


def _shown(node: Node) -> Any:
    """A secret option as it may be shown: variables by their names, of a URL or conninfo all but the password."""
    if not isinstance(node, Scalar):
        return "***"
    return without_secrets(node.text) if "${" in node.text or "://" in node.text or "=" in node.text else "***"


def _written(node: Node) -> Any:
    if isinstance(node, Section):
        return {k: _written(v) for k, v in node.entries.items()}
    if isinstance(node, Items):
        return [_written(v) for v in node.items]
    return node.value


def _place(section: Section, key: str) -> Place:
    node = section.entries.get(key)
    return node.place if node is not None else section.place
