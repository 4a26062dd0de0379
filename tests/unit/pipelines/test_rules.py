"""Rules of the user's own: found in files and entry points, asked of the changes in their scope, and never passed when broken."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines import rulefiles
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.policy import Policy
from millstream.pipelines.project import load
from millstream.pipelines.rulefiles import load_rules
from millstream.schemas.rules import Change, Violation, judge_change, rule

from .conftest import SINKS, SOURCES

MOVIE = RowSchema((Field("id", Type("int64"), 1), Field("title", Type("text"), 2), Field("year", Type("int32"), 3)), ("id",))
WITHOUT_YEAR = RowSchema(MOVIE.fields[:2], ("id",))
CHANGE = Change(
    "rated.recent",
    "team",
    "studio.public.movie",
    "studio",
    MOVIE,
    WITHOUT_YEAR,
    frozenset({"id", "title"}),
    domain="films",
    topic_domain="studios",
)
NO_DROPS = """from millstream.schemas.rules import Change, Violation, rule


@rule(scope="step:rated.*")
def no_drops(change: Change):
    for operation in change.operations:
        if operation.kind == "drop":
            yield Violation(str(operation), change.topic, "we keep all", "put it back")
"""


@dataclass(frozen=True)
class Reading:
    pipeline: str = "rated"
    owner: str = "team"
    part: str = "recent"
    topic: str = "studio.public.movie"
    columns_used: frozenset[str] = frozenset({"id"})
    star: bool = False


def files(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / "rules" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# ---- what is found


def test_rules_come_from_files_with_their_place(tmp_path: Path) -> None:
    rules, mistakes = load_rules(files(tmp_path, pii=NO_DROPS))
    assert mistakes == []
    assert [(r.name, r.scope, r.place) for r in rules] == [("no_drops", "step:rated.*", "rules/pii.py:4")]
    assert [(v.what, v.rule) for v in judge_change(CHANGE, rules, "consumer")] == [("dropped year", "no_drops")]


@pytest.mark.parametrize(
    ("text", "line", "code", "says"),
    [
        ("def x(:\n", 1, "rule_unusable", "SyntaxError"),
        ("x = 1\n\ny = x / 0\n", 3, "rule_unusable", "ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found\n", 1, "rule_unusable", "nowhere_to_be_found"),
        ("from millstream.schemas.rules import rule\n\n@rule(scope='team:x')\ndef f(c): ...\n", 3, "rule_unusable", "is no scope"),
        ("from millstream.schemas.rules import rule\n\n@rule()\ndef f(): ...\n", 3, "rule_unusable", "must take one argument"),
        ("raise SystemExit('https://u:s3cret@host')\n", 1, "rule_unusable", "SystemExit: https://u:***@host"),
        ("def f(change): return []\n", 1, "no_rule", "no rule in the file"),
        ("a = '\xe4'\n", 1, "rule_unusable", ""),
    ],
)
def test_what_is_wrong_with_a_file_is_a_mistake_of_the_project(project, text: str, line: int, code: str, says: str) -> None:
    root = project({})
    path = root / "rules" / "own.py"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidProject) as refused:
        load(root, {}, SOURCES, SINKS)
    (mistake,) = refused.value.diagnostics
    assert (mistake.file, mistake.line, mistake.code) == ("rules/own.py", line, code)
    assert says in mistake.message


def test_a_file_may_have_what_python_files_have(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Kept:\n    a: int\n\n" + NO_DROPS
    rules, mistakes = load_rules(files(tmp_path, own=text))
    assert (len(rules), mistakes) == (1, [])
    assert not list((tmp_path / "rules").glob("__pycache__"))


def test_rules_come_from_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("company_rules")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(NO_DROPS, module.__dict__)
    module.__dict__.update(several=[module.__dict__["no_drops"]], nothing=[], broken=7)

    def installed(**points: str) -> None:
        made = [EntryPoint(name, value, rulefiles.GROUP) for name, value in points.items()]
        monkeypatch.setattr(rulefiles, "entry_points", lambda group: made)

    installed(a="company_rules", b="company_rules:several", c="company_rules:no_drops")
    rules, mistakes = load_rules(tmp_path)
    assert ([r.name for r in rules], mistakes) == (["no_drops"], [])  # it is one, however often it is named
    installed(a="company_rules:nothing", b="company_rules:broken", c="company_rules:gone", d="not_installed")
    rules, mistakes = load_rules(tmp_path)
    assert rules == ()
    assert [(m.file, m.code) for m in mistakes] == [
        ("millstream.rules:a", "no_rule"),
        *((f"millstream.rules:{n}", "rule_unusable") for n in "bcd"),
    ]


# ---- what concerns whom


@pytest.mark.parametrize(
    ("scope", "concerned"),
    [
        ("mesh", True),
        ("domain:films", True),
        ("domain:studio*", True),
        ("domain:books", False),
        ("source:studio", True),
        ("source:stud", False),
        ("topic:studio.public.*", True),
        ("topic:*.person", False),
        ("step:rated.*", True),
        ("step:*.recent", True),
        ("step:rated", False),
    ],
)
def test_scopes(scope: str, concerned: bool) -> None:
    @rule(scope=scope)
    def never(change: Change) -> list[Violation]:
        return [Violation("no", "here", "because", "undo it")]

    assert [v.what for v in judge_change(CHANGE, [never], "consumer")] == ["no"] * concerned


def test_no_domain_is_in_no_domain() -> None:
    @rule(scope="domain:*")
    def never(change: Change) -> list[Violation]:
        return [Violation("no", "here", "because", "undo it")]

    assert judge_change(replace(CHANGE, domain="", topic_domain=""), [never], "consumer") == []


@pytest.mark.parametrize("scope", ["", "mesh:x", "topic:", "team:x", "rated.*", "topic:a b"])
def test_another_scope_is_no_scope(scope: str) -> None:
    with pytest.raises(ValueError, match="is no scope"):
        rule(scope=scope)


# ---- broken rules


def raises(change: Change) -> list[Violation]:
    raise KeyError("password=hunter2")


def gives_late(change: Change):  # type: ignore[no-untyped-def]
    yield Violation("first", "a", "b", "c")
    raise RuntimeError("late")


def leaves(change: Change) -> list[Violation]:
    sys.exit(0)


def gives_text(change: Change):  # type: ignore[no-untyped-def]
    return "no"


def gives_a_number(change: Change):  # type: ignore[no-untyped-def]
    return 7


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (raises, "KeyError"),
        (gives_late, "RuntimeError"),
        (leaves, "SystemExit"),
        (gives_text, "no Violation"),
        (gives_a_number, "TypeError"),
    ],
)
def test_a_broken_rule_is_a_violation_and_never_a_pass(judge, says: str) -> None:  # type: ignore[no-untyped-def]
    (found,) = judge_change(CHANGE, [rule()(judge)], "consumer")
    assert says in found.what and found.rule == judge.__name__
    assert "test_rules.py" in found.cure
    if judge is raises:
        assert "hunter2" not in found.why and "in raises" in found.why


def test_a_rule_may_find_nothing_by_saying_nothing() -> None:
    @rule()
    def silent(change: Change) -> None:
        return None

    assert judge_change(CHANGE, [silent], "consumer") == []


def test_no_rule_floods() -> None:
    @rule()
    def endless(change: Change):  # type: ignore[no-untyped-def]
        number = 0
        while True:
            number += 1
            yield Violation(str(number), "a", "b", "c")

    assert len(judge_change(CHANGE, [endless], "consumer")) == 100


# ---- modes


def test_a_mode_is_asked_of_the_schemas_of_the_topic() -> None:
    retyped = RowSchema((*MOVIE.fields[:2], Field("year", Type("text"), 3)), ("id",))
    change = replace(CHANGE, new=retyped)
    assert judge_change(change, [], "consumer") == judge_change(change, [], "NONE") == []
    (found,) = judge_change(change, [], "BACKWARD")
    assert found.where == "studio.public.movie.year"
    assert (found.why, found.cure.startswith("undo the change")) == ("the new schema cannot read the version before", True)
    wider = RowSchema((*MOVIE.fields[:2], Field("year", Type("int64"), 3)), ("id",))
    assert judge_change(replace(CHANGE, new=wider), [], "BACKWARD") == []
    (found,) = judge_change(replace(CHANGE, new=wider), [], "FULL")
    assert found.why == "the new schema cannot be read by the version before"


def test_a_transitive_mode_looks_at_every_version() -> None:
    first = RowSchema((*MOVIE.fields[:2], Field("year", Type("text"), 3)), ("id",))
    change = replace(CHANGE, old=WITHOUT_YEAR, new=MOVIE, earlier=(first, WITHOUT_YEAR))
    assert judge_change(change, [], "BACKWARD") == []
    (found,) = judge_change(change, [], "BACKWARD_TRANSITIVE")
    assert found.why == "the new schema cannot read version 1"


# ---- what the files say

SOURCE = "source: studio\nconnector: postgres\nurl: postgres://h/studio\ntables: [public.movie]\nowner: team\n"
PIPELINE = "pipeline: rated\nowner: team\nsteps:\n- name: recent\n  sql: SELECT id, title FROM studio.public.movie\n"


@pytest.mark.parametrize(
    ("mesh", "source", "pipeline", "mode"),
    [
        ("", "", "", "consumer"),
        ("FULL", "", "", "FULL"),
        ("FULL", "NONE", "", "NONE"),
        ("FULL", "NONE", "BACKWARD_TRANSITIVE", "BACKWARD_TRANSITIVE"),
        ("FULL", "BACKWARD", "consumer", "consumer"),
    ],
)
def test_the_nearest_mode_holds(project, mesh: str, source: str, pipeline: str, mode: str) -> None:
    def says(mode: str) -> str:
        return f"compatibility: {mode}\n" if mode else ""

    table = "[{public.movie: {domain: features}}]" if mesh else "[public.movie]"
    root = project(
        {
            "mesh.yaml": "mesh: demo\n" + says(mesh),
            "sources/a.yaml": SOURCE.replace("[public.movie]", table) + says(source) + "domain: studios\n",
            "pipelines/b.yaml": PIPELINE + says(pipeline) + "domain: films\n",
        }
    )
    policy = Policy(load(root, {}, SOURCES, SINKS))
    assert policy.mode("rated", "studio.public.movie") == mode
    change = policy.change(Reading(), MOVIE, WITHOUT_YEAR)
    domain = "features" if mesh else "studios"  # a topic's own, or its source's
    assert (change.consumer, change.source, change.domain, change.topic_domain) == ("rated.recent", "studio", "films", domain)
    assert change.columns_used == {"id"}
    assert policy.change(Reading(star=True), MOVIE, WITHOUT_YEAR).columns_used == {"id", "title", "year"}


def test_a_rule_of_the_project_stops_its_step_and_no_other(project) -> None:
    root = project({"sources/a.yaml": SOURCE, "pipelines/b.yaml": PIPELINE, "rules/own.py": NO_DROPS})
    policy = Policy(load(root, {}, SOURCES, SINKS), lambda topic: (MOVIE, WITHOUT_YEAR))
    assert [v.what for v in policy(Reading(), MOVIE, WITHOUT_YEAR)] == ["dropped year"]
    assert policy(Reading(pipeline="other"), MOVIE, WITHOUT_YEAR) == []
    assert policy.change(Reading(), MOVIE, WITHOUT_YEAR).earlier == (MOVIE,)
    back = replace(policy, versions=lambda topic: (WITHOUT_YEAR, MOVIE, WITHOUT_YEAR))  # the first comes back as the third
    assert back.change(Reading(), MOVIE, WITHOUT_YEAR).earlier == (WITHOUT_YEAR, MOVIE)
    assert back.change(Reading(), WITHOUT_YEAR, MOVIE).earlier == (WITHOUT_YEAR,)


def test_the_rule_of_the_guide_stops_one_pipeline_and_nobody_else(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs/how-to/write-a-rule.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert len(text.partition("@rule")[2].splitlines()) == 11
    rules, mistakes = load_rules(files(tmp_path, personal=text))
    assert mistakes == []
    with_email = RowSchema((*MOVIE.fields, Field("maker_email", Type("text"), 4)), ("id",))
    change = replace(CHANGE, consumer="catalogue.page", new=with_email, star=True)
    (found,) = judge_change(change, rules, "consumer")
    assert (found.what, found.where) == ("maker_email may hold personal data", "studio.public.movie.maker_email")
    assert judge_change(replace(change, consumer="rated.recent"), rules, "consumer") == []
    assert judge_change(replace(change, star=False), rules, "consumer") == []
    assert judge_change(replace(change, new=WITHOUT_YEAR), rules, "consumer") == []


def test_words_that_are_no_mode_or_domain_are_mistakes(project) -> None:
    root = project({"sources/a.yaml": SOURCE + "compatibility: backward\n", "pipelines/b.yaml": PIPELINE + "domain: Two Words\n"})
    with pytest.raises(InvalidProject) as refused:
        load(root, {}, SOURCES, SINKS)
    assert [(d.file, d.path, d.code) for d in refused.value.diagnostics] == [
        ("pipelines/b.yaml", "pipelines.rated.domain", "bad_name"),
        ("sources/a.yaml", "sources.studio.compatibility", "bad_value"),
    ]
    assert "FULL_TRANSITIVE or NONE" in refused.value.diagnostics[1].cure
