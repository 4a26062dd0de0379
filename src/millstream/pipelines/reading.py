"""Values of a project's files: text, names, lists and options, each checked where it stands; mistakes are noted, never raised.

What a document of each kind holds is `project.py`'s and `productfiles.py`'s. Values from the environment (`${NAME}`, `$${` for a plain
`${`) are remembered as secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from millstream.components import Component, find
from millstream.errors import without_secrets
from millstream.pipelines.definitions import Evolve, Options
from millstream.pipelines.diagnostics import Diagnostic, Place
from millstream.pipelines.sql.mistakes import nearest, suggestion
from millstream.pipelines.yaml import Items, Node, Scalar, Section
from millstream.schemas.rules import MODES, Mode

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME_CURE = "use small letters, digits and _, beginning with a letter"


class Reading:
    """What has been read so far: mistakes, places and secrets. `sinks` is the list of kinds."""

    def __init__(self, env: Mapping[str, str], sinks: tuple[Component, ...]) -> None:
        self._env, self._sinks = env, sinks
        self._mistakes: list[Diagnostic] = []
        self._secrets: set[str] = set()
        self._places: dict[str, Place] = {}

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
        secret = secret_options(component) if component else frozenset()
        options = Options(resolved, {k: _shown(v) if k in secret else written(v) for k, v in section.entries.items()})
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
            self._note(place_of(section, key), where, "bad_name", f"{name!r} cannot be a name", _NAME_CURE)
            return ""
        return name

    def _read_from(self, section: Section, path: str) -> Literal["copies", "source"]:
        """What `read:` says; copies, where it says nothing."""
        read = self._text(section, "read", path, required=False)
        if read not in ("", "copies", "source"):
            cure = "write read: copies (keyed copies here, no load on the sources) or read: source (queries to the source databases)"
            self._note(place_of(section, "read"), f"{path}.read", "bad_value", f"read cannot be {read}", cure)
        return "source" if read == "source" else "copies"

    def _compatibility(self, section: Section, path: str) -> Mode | None:
        """What `compatibility:` says; None, where it says nothing."""
        mode = self._text(section, "compatibility", path, required=False)
        for known in MODES:
            if mode == known:
                return known
        if mode:
            cure = f"write {', '.join(MODES[:-1])} or {MODES[-1]}"
            self._note(place_of(section, "compatibility"), f"{path}.compatibility", "bad_value", f"compatibility cannot be {mode}", cure)
        return None

    def _domain(self, section: Section, path: str) -> str:
        """What `domain:` says; "", where it says nothing."""
        return self._name(section, "domain", path) if "domain" in section.entries else ""

    def _evolve(self, section: Section, path: str) -> Evolve | None:
        """What `evolve:` says; None, where it says nothing."""
        evolve = self._text(section, "evolve", path, required=False)
        if evolve not in ("", "pinned", "follow"):
            cure = "write evolve: pinned (stay with the schema that was accepted) or evolve: follow (take new columns and wider types)"
            self._note(place_of(section, "evolve"), f"{path}.evolve", "bad_value", f"evolve cannot be {evolve}", cure)
        return "follow" if evolve == "follow" else "pinned" if evolve else None

    def _portable(self, section: Section, path: str) -> bool:
        """What `portable:` says; true, where it says nothing."""
        node = section.entries.get("portable")
        if node is None:
            return True
        if not isinstance(node, Scalar) or not isinstance(node.value, bool):
            cure = "write portable: false for a pipeline that runs locally only, or leave it out"
            self._note(place_of(section, "portable"), f"{path}.portable", "bad_value", "portable is true or false", cure)
            return True
        return node.value

    def _push_down(self, section: Section, path: str) -> bool:
        """What `push_down:` says; false, where it says nothing."""
        node = section.entries.get("push_down")
        if node is None or (isinstance(node, Scalar) and isinstance(node.value, bool)):
            return node is not None and bool(node.value)
        cure = "write push_down: true where the source is to leave out what the first step leaves out"
        self._note(place_of(section, "push_down"), f"{path}.push_down", "bad_value", "push_down is true or false", cure)
        return False

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

    def _target(self, node: Section, path: str, beside: tuple[str, ...] = ()) -> tuple[str, Section, Component] | None:
        """The one kind of sink that stands in `node`, with its options' section; `beside` are the keys that are not kinds."""
        kinds = [k for k in node.entries if k not in beside]
        names = [c.name for c in self._sinks]
        if len(kinds) != 1:
            words = " and ".join([*(f"{b}:" for b in beside), "one kind"])
            self._note(node.place, path, "bad_sink", f"a sink has {words}, this has {len(kinds)}", f"kinds: {', '.join(names)}")
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
        return kind, options, component

    def _no_repeats(self, names: list[str], nodes: tuple[Node, ...], path: str) -> None:
        for i, name in enumerate(names):
            if name and name in names[:i]:
                self._note(nodes[i].place, f"{path}[{i}]", "name_twice", f"{name} is there twice", "keep one")

    def _keys(self, section: Section, path: str, known: Iterable[str]) -> None:
        for key in section.entries:
            if key not in (names := tuple(known)):
                cure = suggestion(key, names, "keys")
                self._note(section.keys[key], f"{path}.{key}", "unknown_key", f"there is no key {key} here", cure)

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


def secret_options(component: Component) -> frozenset[str]:
    fields = component.options.model_fields.items()
    return frozenset(f.alias or name for name, f in fields if "Secret" in str(f.annotation))


def _shown(node: Node) -> Any:
    """A secret option as it may be shown: variables by their names, of a URL or conninfo all but the password."""
    if not isinstance(node, Scalar):
        return "***"
    return without_secrets(node.text) if "${" in node.text or "://" in node.text or "=" in node.text else "***"


def written(node: Node) -> Any:
    if isinstance(node, Section):
        return {k: written(v) for k, v in node.entries.items()}
    if isinstance(node, Items):
        return [written(v) for v in node.items]
    return node.value


def place_of(section: Section, key: str) -> Place:
    node = section.entries.get(key)
    return node.place if node is not None else section.place
