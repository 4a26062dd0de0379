"""Registering and deleting in any order, through the API's rules and beside them: a model of three dictionaries tells what must come."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Refused
from millstream.schemas.registry import Reference
from millstream.schemas.rest.settings import Settings
from millstream.schemas.rest.subjects import LATEST, Asked, Subjects
from millstream.schemas.sql import SqlRegistry

TEXTS = [json.dumps({"type": "fixed", "name": f"F{n}", "size": n}, separators=(",", ":")) for n in range(1, 5)]
SPELLINGS = (str, lambda text: text.replace(",", ", "), lambda text: json.dumps(dict(reversed(json.loads(text).items()))))
SUBJECTS = ("a", "b")

text = st.sampled_from(TEXTS)
number = st.sampled_from([1, 2, 3, 5, LATEST])
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["register", "lookup", "record"]), st.sampled_from(SUBJECTS), text, st.sampled_from(SPELLINGS)),
        st.tuples(st.just("delete version"), st.sampled_from(SUBJECTS), number, st.booleans()),
        st.tuples(st.just("delete subject"), st.sampled_from(SUBJECTS), st.just(0), st.booleans()),
    ),
    max_size=25,
)


class Model:
    """What should be: subject → version → text, of those that are there and of those that are hidden; text → id."""

    def __init__(self) -> None:
        self.live: dict[str, dict[int, str]] = {s: {} for s in SUBJECTS}
        self.hidden: dict[str, dict[int, str]] = {s: {} for s in SUBJECTS}
        self.ids: dict[str, int] = {}

    def register(self, subject: str, text: str) -> tuple[int, int]:
        """id, version"""
        number = self.ids.setdefault(text, len(self.ids) + 1)
        there = [v for v, t in self.live[subject].items() if t == text]
        if there:
            return number, there[0]
        version = max([0, *self.live[subject], *self.hidden[subject]]) + 1
        self.hidden[subject] = {v: t for v, t in self.hidden[subject].items() if t != text}
        self.live[subject][version] = text
        return number, version

    def lookup(self, subject: str, text: str) -> int | str:
        """The version, or the code."""
        if not self.live[subject]:
            return "40401"
        return next((v for v, t in self.live[subject].items() if t == text), "40403")

    def delete_version(self, subject: str, number: int, permanent: bool) -> int | str:
        live, hidden = self.live[subject], self.hidden[subject]
        if not live and not hidden:
            return "40401"
        if number == LATEST:
            number = max([*live, *hidden] if permanent else live, default=0)
        if number not in live and number not in hidden:
            return "40402"
        if permanent:
            if number in live:
                return "40407"
            del hidden[number]
        else:
            if number in hidden:
                return "40406"
            hidden[number] = live.pop(number)
        return number

    def delete_subject(self, subject: str, permanent: bool) -> list[int] | str:
        live, hidden = self.live[subject], self.hidden[subject]
        if not live and not hidden:
            return "40401"
        if permanent and live:
            return "40405"
        if not permanent and not live:
            return "40404"
        done = sorted(hidden if permanent else live)
        self.hidden[subject] = {} if permanent else {**hidden, **live}
        self.live[subject] = {}
        return done


def outcome(act: Any) -> Any:
    """What it gives, or the code of its refusal."""
    try:
        return act()
    except Refused as error:
        return error.code


@settings(max_examples=120)
@given(operations)
def test_any_order_of_registering_and_deleting(done: list[tuple[str, str, Any, Any]]) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    registry, model = SqlRegistry(engine), Model()
    subjects = Subjects(registry.database, lambda level, new, earlier: [], lambda subject: False)
    for what, subject, value, how in done:
        if what == "register":
            made = subjects.register(subject, Asked(how(value)))
            assert (made.id, made.version) == model.register(subject, value)
        elif what == "record":
            made = registry.register(subject, how(value))
            assert (made.id, made.version) == model.register(subject, value)
        elif what == "lookup":
            found = outcome(lambda s=subject, t=value, h=how: subjects.lookup(s, Asked(h(t))).version)
            assert found == model.lookup(subject, value)
        elif what == "delete version":
            found = outcome(lambda s=subject, n=value, p=how: subjects.delete_version(s, n, permanent=p))
            assert found == model.delete_version(subject, value, how)
        else:
            found = outcome(lambda s=subject, p=how: subjects.delete(s, permanent=p))
            assert found == model.delete_subject(subject, how)
        _as_the_model_says(registry, subjects, model)
    engine.dispose()


def _as_the_model_says(registry: SqlRegistry, subjects: Subjects, model: Model) -> None:
    assert subjects.names() == registry.subjects() == [s for s in SUBJECTS if model.live[s]]
    assert subjects.names(deleted=True) == [s for s in SUBJECTS if model.live[s] or model.hidden[s]]
    for subject in SUBJECTS:
        live, hidden = model.live[subject], model.hidden[subject]
        assert outcome(lambda s=subject: subjects.versions(s)) == (sorted(live) or "40401")
        assert outcome(lambda s=subject: subjects.versions(s, deleted=True)) == (sorted(live | hidden) or "40401")
        assert [(v.version, v.id) for v in registry.versions(subject)] == [(v, model.ids[t]) for v, t in sorted(live.items())]
    used = {t for part in (model.live, model.hidden) for versions in part.values() for t in versions.values()}
    for text, schema_id in model.ids.items():
        assert json.loads(registry.by_id(schema_id)) == json.loads(text), "an id means the same for ever"
        assert outcome(lambda i=schema_id: subjects.by_id(i).id) == (schema_id if text in used else "40403")


def test_a_verdict_is_taken_again_where_others_came_between() -> None:
    """The level's verdict rests on what was there; another client registers, and sets the level, before the write."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    registry = SqlRegistry(engine)
    asked: list[tuple[str, int]] = []
    rivals = [lambda: registry.register("s", TEXTS[1]), lambda: Settings(registry.database).set("level", "s", "FULL")]

    def check(level: str, new: str, earlier: Any) -> list[str]:
        asked.append((level, len(earlier)))
        if rivals:
            rivals.pop(0)()
        return ["no"] if level == "FULL" else []

    registry.register("s", TEXTS[0])
    subjects = Subjects(registry.database, check, lambda subject: False)
    with pytest.raises(Refused) as caught:
        subjects.register("s", Asked(TEXTS[2]))
    assert caught.value.code == "409"
    assert asked == [("BACKWARD", 1), ("BACKWARD", 2), ("FULL", 2)]
    assert [v.version for v in registry.versions("s")] == [1, 2]
    engine.dispose()


def test_a_version_that_many_ways_of_references_lead_to_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may register could else let a request of a few bytes run for hours."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    subjects = Subjects(SqlRegistry(engine).database, lambda level, new, earlier: [], lambda subject: False)

    def record(name: str, *types: str) -> str:
        return json.dumps({"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]})

    for name in ("A0", "B0"):
        subjects.register(name, Asked(record(name, "int")))
    for level in range(1, 12):
        before = tuple(Reference(f"{c}{level - 1}", f"{c}{level - 1}", 1) for c in "AB")
        for name in (f"A{level}", f"B{level}"):
            subjects.register(name, Asked(record(name, *(r.name for r in before)), before))
    looked, version = [], Subjects.version
    monkeypatch.setattr(Subjects, "version", lambda self, *at, **how: (looked.append(at), version(self, *at, **how))[1])
    top = tuple(Reference(f"{c}11", f"{c}11", 1) for c in "AB")
    subjects.register("top", Asked(record("Top", "A11", "B11"), top))
    assert len(looked) < 60
    engine.dispose()
