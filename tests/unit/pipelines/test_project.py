"""A project's files become definitions; a broken one lists all its mistakes at once; values of the environment stay out of sight."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.pipelines.compile import compile_all
from millstream.pipelines.diagnostics import InvalidProject, Place
from millstream.pipelines.explain import explain
from millstream.pipelines.project import load
from millstream.pipelines.rollout import Actual, Topic, Wanted, rollout, wanted_pipeline
from millstream.pipelines.yaml import Scalar, documents

from .conftest import SINKS, SOURCES, TOPICS

STUDIO = "source: studio\nconnector: postgres\nurl: ${STUDIO_URL}\ntables: [public.movie, public.credit]\nowner: team\n"
HR = "source: hr\nconnector: postgres\nurl: postgres://${HR_USER}:${HR_PASSWORD}@h/hr\ntables: [public.person]\nowner: team\n"
RATED = """pipeline: rated
owner: team
steps:
  - name: recent
    sql: SELECT id, title, director_id FROM studio.public.movie WHERE year >= 2000
  - name: named
    sql: |
      SELECT r.*, p.name AS director
      FROM recent r LEFT JOIN hr.public.person p ON p.id = r.director_id
    key: [id]
sinks:
  - {from: named, jsonl: {file: "${FOLDER}/named.jsonl"}}
"""
ENV = {"STUDIO_URL": "postgres://app:s3cr3t-one@h/studio", "HR_USER": "hruser", "HR_PASSWORD": "s3cr3t-two", "FOLDER": "/data/s3cr3t-three"}
FILES = {"sources/studio.yaml": STUDIO + "---\n" + HR, "pipelines/rated.yaml": RATED}


def mistakes(root, env=ENV):
    with pytest.raises(InvalidProject) as refused:
        load(root, env, SOURCES, SINKS)
    return refused.value


def test_a_project_is_read_with_the_place_of_every_path(project) -> None:
    found = load(project(FILES), ENV, SOURCES, SINKS)
    assert (found.mesh.name, found.mesh.topics, found.mesh.runner, found.mesh.state) == ("demo", "local", "local", ".millstream")
    studio, hr = found.sources
    assert studio.topics == ("studio.public.movie", "studio.public.credit")
    assert studio.options["url"] == ENV["STUDIO_URL"]
    assert hr.options["url"] == "postgres://hruser:s3cr3t-two@h/hr"
    assert hr.places["sources.hr"] == Place("sources/studio.yaml", 7, 1)
    assert studio.places["sources.studio.tables[1]"] == Place("sources/studio.yaml", 4, 24)
    (rated,) = found.pipelines
    assert [s.name for s in rated.steps] == ["recent", "named"]
    assert rated.steps[1].key == ("id",)
    assert rated.places["pipelines.rated.steps[1].sql"] == Place("pipelines/rated.yaml", 7, 10)
    assert rated.places["pipelines.rated.sinks[0].jsonl.file"] == Place("pipelines/rated.yaml", 12, 33)
    assert found.secrets == frozenset(ENV.values())


def test_a_broken_project_lists_all_mistakes_of_all_files_sorted(project) -> None:
    files = {
        "mesh.yaml": "mesh: Demo\nrunner: flink\nstat: x\n",
        "sources/a.yaml": "source: a\nconnector: postgress\ntables: [x, x]\n",
        "sources/b.yaml": "source: b\nconnector: postgres\nurl: ${NO_SUCH}\nheartbeat: 3\ntables: [public.t]\nowner: team\n",
        "sources/c.yml": "source: c\n",
        "pipelines/p.yaml": "pipeline: p\nowner: team\nsteps:\n- name: s\n  sqll: SELECT 1\n- name: s\n  sql: x\n- name: s\n  sql: y\n"
        "sinks:\n"
        "- {from: s, jsonll: {}}\n- {from: s, jsonl: {}}\n- {from: s, jsonl: {file: 1, fil: 2}}\n- {from: s}\n- x\n",
        "pipelines/q.yaml": "pipeline: q\nowner: team\nsteps: [\n",
        "pipelines/r.yaml": "pipeline: b\nowner: [x]\nkey: &a 1\n",
    }
    error = mistakes(project(files))
    seen = [(d.file, d.line, d.column, d.path, d.code) for d in error.diagnostics]
    assert seen == [
        ("mesh.yaml", 1, 7, "mesh", "bad_name"),
        ("mesh.yaml", 2, 9, "mesh.runner", "bad_value"),
        ("mesh.yaml", 3, 1, "mesh.stat", "unknown_key"),
        ("pipelines/p.yaml", 4, 3, "pipelines.p.steps[0].sql", "missing"),
        ("pipelines/p.yaml", 5, 3, "pipelines.p.steps[0].sqll", "unknown_key"),
        ("pipelines/p.yaml", 8, 9, "pipelines.p.steps[2].name", "name_twice"),
        ("pipelines/p.yaml", 11, 13, "pipelines.p.sinks[0].jsonll", "unknown_sink"),
        ("pipelines/p.yaml", 12, 20, "pipelines.p.sinks[1].jsonl.file", "missing"),
        ("pipelines/p.yaml", 13, 27, "pipelines.p.sinks[2].jsonl.file", "bad_option"),
        ("pipelines/p.yaml", 13, 30, "pipelines.p.sinks[2].jsonl.fil", "unknown_key"),
        ("pipelines/p.yaml", 14, 3, "pipelines.p.sinks[3]", "bad_sink"),
        ("pipelines/p.yaml", 15, 3, "pipelines.p.sinks[4]", "bad_value"),
        ("pipelines/q.yaml", 4, 1, "", "yaml_unreadable"),
        ("pipelines/r.yaml", 3, 6, "", "yaml_unreadable"),
        ("sources/a.yaml", 1, 1, "sources.a.owner", "missing"),
        ("sources/a.yaml", 2, 12, "sources.a.connector", "unknown_connector"),
        ("sources/a.yaml", 3, 13, "sources.a.tables[1]", "name_twice"),
        ("sources/b.yaml", 3, 6, "sources.b.url", "unknown_variable"),
        ("sources/b.yaml", 4, 1, "sources.b.heartbeat", "unknown_key"),
        ("sources/c.yml", 1, 1, "", "not_read"),
    ]
    text = str(error)
    assert text.count("cure: ") == len(seen)
    assert "did you mean heartbeat_s?" in text
    assert "did you mean postgres?" in text
    assert "did you mean jsonl?" in text
    assert text.splitlines()[0].startswith("mesh.yaml:1:7: mesh: 'Demo'")


@pytest.mark.parametrize(
    ("files", "code", "line"),
    [
        ({"sources/b.yaml": STUDIO}, "name_twice", 1),
        ({"sources/b.yaml": STUDIO.replace("studio", "rated", 1)}, "name_twice", 1),
        ({"pipelines/rated.yaml": RATED.replace("owner: team", "owner: ${FOLDER}")}, "variable_not_here", 2),
        ({"pipelines/rated.yaml": RATED.replace(">= 2000", ">= ${FOLDER}")}, "variable_not_here", 5),
        ({"pipelines/rated.yaml": RATED.replace("${FOLDER}", "${FOLDER")}, "bad_variable", 12),
        ({"pipelines/rated.yaml": RATED.replace("name: named", "name: Named")}, "bad_name", 6),
        ({"pipelines/rated.yaml": RATED.replace("[id]", "[]")}, "bad_value", 10),
        ({"pipelines/rated.yaml": RATED.replace("[id]", "id")}, "bad_value", 10),
        ({"pipelines/rated.yaml": RATED.replace("[id]", "[id, id]")}, "name_twice", 10),
        ({"pipelines/rated.yaml": RATED + "owner: again\n"}, "key_twice", 13),
        ({"pipelines/rated.yaml": "pipeline: p\nowner: x\n"}, "missing", 1),
        ({"pipelines/rated.yaml": "- a\n"}, "not_a_mapping", 1),
        ({"pipelines/rated.yaml": "a: !!python/object:x 1\n"}, "yaml_unreadable", 1),
        ({"pipelines/rated.yaml": "a: &x [*x]\n"}, "yaml_unreadable", 1),
        ({"pipelines/rated.yaml": "a: \x00"}, "yaml_unreadable", 1),
        ({"mesh.yaml": ""}, "missing", 1),
        ({"mesh.yaml": "mesh: a\nhistory: 0d\n"}, "bad_value", 2),
        ({"mesh.yaml": "mesh: a\nhistory: 7\n"}, "bad_value", 2),
        ({"mesh.yaml": "mesh: a\nbehind_mib: 0\n"}, "bad_value", 2),
        ({"mesh.yaml": "mesh: a\nbehind_mib: yes\n"}, "bad_value", 2),
        ({"mesh.yaml": "mesh: a\nregistry:\n  token: ${FOLDER}\n  url: http://registry.example\n"}, "bad_option", 4),
        ({"mesh.yaml": "mesh: a\nregistry:\n  url: http://registry.example\n  user: u\n  password: ${FOLDER}\n"}, "bad_option", 5),
        ({"mesh.yaml": "mesh: a\n---\nmesh: b\n"}, "mesh_twice", 3),
        ({"sources/studio.yaml": STUDIO.replace("public.movie", "public..movie") + "---\n" + HR}, "bad_name", 4),
    ],
)  # fmt: skip
def test_one_mistake_is_named_with_its_line(files, code, line, project) -> None:
    found = mistakes(project({**FILES, **files}))
    assert (found.diagnostics[0].code, found.diagnostics[0].line) == (code, line), str(found)


def test_a_secret_is_not_sent_to_another_machine_in_plain(project) -> None:
    notify = "webhook: http://hooks.example/x\n  webhook_hosts: [hooks.example]\n  webhook_token: ${FOLDER}\n"
    (found,) = mistakes(project({**FILES, "mesh.yaml": f"mesh: a\nnotify:\n  {notify}"})).diagnostics
    assert (found.line, found.path, found.code) == (5, "mesh.notify.webhook_token", "bad_option")
    assert "anyone can read: write https://, or a host of this machine" in found.message and ENV["FOLDER"] not in str(found)
    load(project({**FILES, "mesh.yaml": f"mesh: a\nnotify:\n  {notify.replace('http:', 'https:')}"}), ENV, SOURCES, SINKS)


def test_what_topics_keep_is_read(project) -> None:
    mesh = load(project({**FILES, "mesh.yaml": "mesh: a\nhistory: 36h\nbehind_mib: 10\n"}), ENV, SOURCES, SINKS).mesh
    assert (mesh.history_s, mesh.behind_mib, mesh.state_memory_mib) == (36 * 3600, 10, 1024)
    mesh = load(project({**FILES, "mesh.yaml": "mesh: a\n"}), ENV, SOURCES, SINKS).mesh
    assert (mesh.history_s, mesh.behind_mib) == (7 * 86_400, 4096)


def test_a_folder_without_mesh_yaml_is_no_project(tmp_path) -> None:
    assert [d.code for d in mistakes(tmp_path).diagnostics] == ["no_mesh"]


def test_variables_stand_anywhere_in_a_text_and_can_be_escaped(project) -> None:
    url = "a://$${x}-${HR_USER}-${HR_USER}$"
    found = load(project({**FILES, "sources/z.yaml": STUDIO.replace("studio", "z", 1).replace("${STUDIO_URL}", url)}), ENV, SOURCES, SINKS)
    assert found.sources[-1].options["url"] == "a://${x}-hruser-hruser$"
    assert repr(found.sources[-1].options) == repr({"url": url})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://app:hunter2@h/db", "postgres://app:***@h/db"),
        ("${STUDIO_URL}", "${STUDIO_URL}"),
        ("postgres://app:${HR_PASSWORD}@h/db", "postgres://app:***@h/db"),
    ],
)
def test_a_password_written_into_the_file_is_not_shown_either(url, shown, project) -> None:
    found = load(project({**FILES, "sources/z.yaml": STUDIO.replace("studio", "z", 1).replace("${STUDIO_URL}", url)}), ENV, SOURCES, SINKS)
    assert repr(found.sources[-1].options) == repr({"url": shown})


def test_no_secret_is_in_any_text(project, known) -> None:
    found = load(project(FILES), ENV, SOURCES, SINKS)
    plans = compile_all(found, known)
    wanted = Wanted({n: Topic(s) for n, s in TOPICS.items()}, {p.pipeline: wanted_pipeline(p) for p in plans})
    texts = [repr(found), *map(repr, plans), *map(explain, plans), *map(str, rollout(wanted, Actual())), repr(wanted)]
    broken = {**ENV, "STUDIO_URL": "no-url-s3cr3t-one"}
    error = mistakes(project(FILES), broken)  # the option's own error repeats its value
    assert error.diagnostics[0].code == "bad_option"
    texts += [str(error), repr(error), *map(repr, error.diagnostics)]
    for text in texts:
        for secret in (*ENV.values(), *broken.values(), "s3cr3t"):
            assert secret not in text
    assert plans[0].sinks[0].options["file"] == "/data/s3cr3t-three/named.jsonl"  # what runs has it


WORDS = st.text(st.sampled_from("aé'\"#: \n\t,x1}{|>-"), max_size=30)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(WORDS, st.sampled_from(["single", "double", "literal", "plain"]), st.integers(0, 3))
def test_every_character_of_a_text_is_found_again_in_its_file(words: str, style: str, lead: int) -> None:
    if style == "literal":
        lines = words.replace("\t", " ").split("\n")
        text = "k: |\n" + "".join(f"  {'' if not line.strip() else line}\n" for line in ["start", *lines])
    elif style == "plain":
        text = "k: start" + "".join(c for c in words if c in "aéx1") + "\n"
    elif style == "single":
        text = "k: '" + words.replace("\n", " ").replace("\t", " ").replace("'", "''") + "'\n"
    else:
        text = 'k: "' + words.replace("\n", " ").replace("\t", " ").replace('"', '\\"') + '"\n'
    text = "# é\n" * lead + text
    found: list = []
    (section,) = documents("f", text, found)
    node = section.entries["k"]
    assert isinstance(node, Scalar)
    assert not found
    rows = text.split("\n")
    marks = node.marks()
    assert len(marks) == len(node.text) + 1
    assert list(marks) == sorted(marks)
    for char, (line, column) in zip(node.text, marks, strict=False):
        if not char.isspace():
            assert rows[line - 1][column - 1] == char
