"""What is refused, and how: exit codes, places, cures, and nothing half done."""

from __future__ import annotations

import json

import pytest

BROKEN = """\
pipeline: large
owner: team-shop
steps:
  - name: large
    sql: SELECT id, amuont FROM shop.public.orders WHERE amount >= 100
sinks:
  - {from: large, serch: {index: orders}}
"""


def test_a_command_that_is_none(shop) -> None:
    answer = shop("aply")
    assert (answer.code, answer.out) == (2, "")
    assert 'Did you mean "apply"' in answer.err
    assert shop("plan", "--nonsense").code == 2
    assert shop("topics", "read").code == 2
    assert shop("topics", "read", "x", "--limit", "many").code == 2
    usage = shop("--json", "aply")
    assert json.loads(usage.err)["error"]["code"] == "usage"


@pytest.mark.parametrize("command", [("status",), ("run",), ("run", "--until-caught-up")])
def test_what_is_not_applied_ends_with_3(shop, command) -> None:
    answer = shop(*command)
    assert answer.code == 3
    assert "millstream apply" in answer.err
    assert "Traceback" not in answer.err


def test_no_project(shop, tmp_path_factory) -> None:
    shop.folder = tmp_path_factory.mktemp("empty")
    for command in (("validate",), ("plan",), ("status",), ("topics", "list")):
        answer = shop(*command)
        assert (answer.code, "no mesh.yaml here" in answer.err) == (2, True)
    assert list(shop.folder.iterdir()) == []


def test_mistakes_are_shown_as_a_compiler_shows_them(shop) -> None:
    shop.write("pipelines/large.yaml", BROKEN)
    answer = shop("validate")
    assert answer.code == 2
    assert "pipelines/large.yaml:7:19: error[unknown_sink]: there is no kind of sink serch" in answer.err
    assert "     7 |   - {from: large, serch: {index: orders}}\n       |                   ^" in answer.err
    assert "cure: did you mean search?" in answer.err
    shop.write("pipelines/large.yaml", BROKEN.replace("serch", "search"))
    document = shop("validate", "--json")
    (mistake,) = document.json["mistakes"]
    assert (document.code, document.json["valid"]) == (2, False)
    assert (mistake["file"], mistake["line"], mistake["column"], mistake["code"]) == ("pipelines/large.yaml", 5, 21, "unknown_column")
    assert "amount" in mistake["cure"]


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_mistakes_stop_plan_and_apply(shop, command) -> None:
    shop.write("pipelines/large.yaml", BROKEN)
    assert shop(command).code == 2
    as_json = shop(command, "--json")
    assert (as_json.code, as_json.out) == (2, "")
    assert json.loads(as_json.err)["mistakes"][0]["file"] == "pipelines/large.yaml"


def test_offline_asks_no_database_and_says_what_it_left_out(shop) -> None:
    shop.write("pipelines/after.yaml", "pipeline: after\nowner: o\nsteps:\n  - {name: a, sql: SELECT id FROM large.large}\n")
    answer = shop("validate", "--offline", "--json")
    assert answer.code == 0
    assert set(answer.json["unchecked"]) == {"large", "after"}
    assert shop.asked == 0
    assert "not checked: pipeline large: it reads shop.public.orders" in shop("validate", "--offline").out
    # A name that only begins like an unknown one is no reason not to look.
    shop.write("pipelines/after.yaml", "pipeline: after\nowner: o\nsteps:\n  - {name: a, sql: SELECT id FROM shop.public.orders2}\n")
    assert shop("validate", "--offline").code == 2


def test_once_applied_no_database_is_asked(shop) -> None:
    shop("apply")
    asked = shop.asked
    shop.down = True
    assert shop("validate").code == 0
    assert shop("plan").code == 0
    assert shop.asked == asked


def test_a_database_that_does_not_answer(shop) -> None:
    shop.down = True
    for command in ("validate", "plan", "apply"):
        answer = shop(command)
        assert answer.code == 1
        assert "scripted://reader" not in answer.err.replace("***", "")
        assert shop.password not in answer.out + answer.err
        assert "cure: start it" in answer.err
    assert shop("validate", "--json").json["faults"][0]["code"] == "source_down"
    assert shop("sources", "show", "shop").code == 1


def test_a_database_that_is_not_ready_leaves_everything_as_it_was(shop) -> None:
    shop.refuses = "wal_level is replica"
    answer = shop("apply")
    assert answer.code == 2
    assert "ALTER SYSTEM SET wal_level = logical" in answer.err
    assert shop("topics", "list", "--json").json == []
    assert shop("schemas", "list", "--json").json == []
    assert shop("status").code == 3
    shop.refuses = ""
    assert shop("apply").code == 0


def test_an_edited_file_is_not_run_before_it_is_applied(shop) -> None:
    shop("apply")
    before = (shop.folder / "pipelines/large.yaml").read_text()
    shop.write("pipelines/large.yaml", before.replace(">= 100", ">= 200"))
    answer = shop("run", "--until-caught-up")
    assert answer.code == 3
    assert "rebuild pipeline large" in answer.err
    shop.write("pipelines/large.yaml", before.replace("orders}", "others}"))
    assert "restart sink large.large.search" in shop("run").err
    shop.write("pipelines/large.yaml", before)
    (shop.folder / "sources/shop.yaml").write_text((shop.folder / "sources/shop.yaml").read_text().replace("SHOP_URL", "SHOP_URL}${NONE"))
    shop.env["NONE"] = ""
    assert "restart connector shop" in shop("run").err


def test_another_password_is_not_a_change(shop) -> None:
    shop("apply")
    shop.env["SHOP_URL"] = "scripted://reader:another-one@db.example:5432/shop"
    assert shop("plan", "--json").json["steps"] == []


def test_what_is_gone_from_the_files_is_stopped(shop) -> None:
    shop("apply")
    (shop.folder / "pipelines/large.yaml").unlink()
    assert [s["kind"] for s in shop("apply", "--json").json["done"]] == ["stop_sink", "stop_sink", "stop_pipeline"]
    assert [p["part"] for p in shop("status", "--json").json["parts"]] == ["source.shop"]
    (shop.folder / "sources/shop.yaml").unlink()
    gone = shop("apply")
    assert "shop is no longer read; remove what was made for it on its server" in gone.err
    assert shop("status").code == 3
    assert len(shop("topics", "list", "--json").json) == 2


def test_a_topic_that_nothing_writes_any_more_cannot_be_read_anew(shop) -> None:
    shop("apply")
    (shop.folder / "sources/shop.yaml").unlink()
    assert "shop.public.orders" in shop("validate").err


def test_a_key_cannot_change(shop) -> None:
    shop("apply")
    text = (shop.folder / "pipelines/large.yaml").read_text()
    keyed = text.replace("amount >= 100\n", "amount >= 100\n    key: [id, note]\n")
    shop.write("pipelines/large.yaml", keyed.replace("id, amount, note FROM", "id, coalesce(note, '') AS note FROM"))
    answer = shop("plan")
    assert answer.code == 2
    assert "the key of a topic cannot change" in answer.err


def test_searching_what_is_not_there(shop) -> None:
    shop("apply")
    answer = shop("search", "orders", "x")
    assert (answer.code, "no index" in answer.err) == (2, True)
    assert shop("sources", "show", "shpo").code == 2
