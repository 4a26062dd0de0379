"""`doc`, `tags`, `owner`, `domain` and `fields` in a project's files → what is said of a topic, each checked where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator

from millstream.pipelines.definitions import Description, FieldDescription
from millstream.pipelines.reading import Reading
from millstream.pipelines.yaml import Items, Section

DESCRIBES = ("doc", "tags", "domain", "fields")
"""The keys that describe a topic, beside its `owner`."""

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]*")
_FIELD_CURE = "write fields: {title: {doc: the film's title, tags: [public]}}"


class DescriptionReading(Reading):
    """Reads what describes something, in a section that may hold other keys too."""

    def _description(self, section: Section, path: str) -> Description:
        owner = self._text(section, "owner", path, required=False)
        fields = dict(self._described_fields(section, path))
        return Description(self._doc(section, path), self._tags(section, path), owner, self._domain(section, path), fields)

    def _doc(self, section: Section, path: str) -> str:
        return " ".join(self._text(section, "doc", path, required=False).split())

    def _tags(self, section: Section, path: str) -> tuple[str, ...]:
        node = section.entries.get("tags")
        if node is not None and (not isinstance(node, Items) or not node.items):
            self._note(node.place, f"{path}.tags", "bad_value", "tags is a list of words", "write tags: [pii]")
            return ()
        nodes = self._items(section, "tags", path)
        tags = [self._plain(n, f"{path}.tags[{i}]", "a tag") for i, n in enumerate(nodes)]
        for i, (tag, at) in enumerate(zip(tags, nodes, strict=True)):
            if tag and not _TAG.fullmatch(tag):
                self._note(at.place, f"{path}.tags[{i}]", "bad_name", f"{tag!r} cannot be a tag", "use letters, digits and _ . : / -")
        self._no_repeats(tags, nodes, f"{path}.tags")
        return tuple(t for t in tags if t)

    def _described_fields(self, section: Section, path: str) -> Iterator[tuple[str, FieldDescription]]:
        node = section.entries.get("fields")
        if node is None:
            return
        if not isinstance(node, Section):
            self._note(node.place, f"{path}.fields", "bad_value", "fields is a list of `column: {doc, tags}`", _FIELD_CURE)
            return
        for name, said in node.entries.items():
            here = f"{path}.fields.{name}"
            self._places[here] = node.keys[name]
            if not isinstance(said, Section):
                self._note(said.place, here, "bad_value", f"{name} is described by doc: and tags:", _FIELD_CURE)
                continue
            self._enter(said, here)
            self._places[here] = node.keys[name]
            self._keys(said, here, ("doc", "tags"))
            yield name, FieldDescription(self._doc(said, here), self._tags(said, here))
