"""What a CockroachDB source needs to begin: every fault at once, each with its cure, and no secret in any."""

from __future__ import annotations

import pytest
from cockroach_rig import CockroachRig

from millstream.errors import Refused

pytestmark = pytest.mark.servers


def test_an_unknown_table_is_refused_with_near_names(roach: CockroachRig) -> None:
    source = roach.source(tables=("public.aa",))
    with pytest.raises(Refused, match=r"no table public\.aa") as refused:
        source.check()
    assert (refused.value.code, "public.a" in refused.value.cure) == ("table_unknown", True)
    for attempt in (source.tables, lambda: next(source.stream(None))):
        with pytest.raises(Refused, match=r"no table public\.aa"):
            attempt()


def test_all_that_is_missing_is_told_at_once(roach: CockroachRig) -> None:
    roach.run(
        "CREATE VIEW seen AS SELECT id FROM public.a",
        "CREATE SEQUENCE numbers",
        "CREATE TABLE cut (id INT8 PRIMARY KEY, a STRING, b STRING, FAMILY f1 (id, a), FAMILY f2 (b))",
    )
    with pytest.raises(Refused) as refused:
        roach.source(tables=("seen", "numbers", "cut", "nowhere", "a")).check()
    said = refused.value.message
    assert "4 things are missing" in said and "a view" in said and "a sequence" in said and "2 column families" in said
    assert all(f"\n  {i}. " in refused.value.cure for i in range(1, 5)) and "one family" in refused.value.cure


def test_a_wrong_password_is_refused_and_not_shown(roach: CockroachRig) -> None:
    if roach.is_cluster:
        roach.run("CREATE USER IF NOT EXISTS guarded")
    source = roach.source(url=roach.url("guarded", "wr0ng-secret"))
    for attempt in (source.check, source.tables, lambda: next(source.stream(None))):
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.code == "password"
        assert "wr0ng-secret" not in f"{refused.value} {refused.value!r} {refused.value.__cause__} {refused.value.__context__}"


def test_a_user_without_privileges_is_told_what_to_grant(roach: CockroachRig) -> None:
    roach.run("CREATE USER IF NOT EXISTS plain")
    with pytest.raises(Refused) as refused:
        roach.source(url=roach.url("plain")).check()
    assert refused.value.code in ("privilege", "table_unknown")
    assert 'GRANT SELECT, CHANGEFEED ON TABLE "public"."a" TO "plain"' in refused.value.cure


def test_rangefeeds_that_are_off_are_refused_with_the_setting(roach: CockroachRig) -> None:
    roach.run("SET CLUSTER SETTING kv.rangefeed.enabled = false")
    try:
        with pytest.raises(Refused, match="changefeeds cannot follow") as refused:
            roach.source().check()
        assert (refused.value.code, refused.value.cure) == (
            "rangefeed",
            "an administrator runs: SET CLUSTER SETTING kv.rangefeed.enabled = true",
        )
    finally:
        roach.run("SET CLUSTER SETTING kv.rangefeed.enabled = true")


def test_a_cluster_without_a_licence_is_warned_of_where_that_throttles_it(roach: CockroachRig, caplog: pytest.LogCaptureFixture) -> None:
    server = roach.standin  # a cluster's licence is not ours to take away
    roach.source().check()
    said = [r.getMessage() for r in caplog.records if r.name == "millstream.source"]
    if roach.is_old:
        assert said == []
    else:
        assert len(said) == 1 and "no licence key" in said[0] and "SET CLUSTER SETTING enterprise.license" in said[0]
    caplog.clear()
    roach.run("CREATE USER IF NOT EXISTS plain", "GRANT SELECT ON TABLE a TO plain", "GRANT SELECT ON TABLE b TO plain")
    roach.source(url=roach.url("plain")).check()  # who may not see settings is told nothing that is not known
    server.execute("SET CLUSTER SETTING enterprise.license = 'crl-0-key'")
    roach.source().check()
    assert [r for r in caplog.records if r.name == "millstream.source"] == []


def test_what_is_no_url_is_refused_without_it(roach: CockroachRig) -> None:
    with pytest.raises(Refused) as refused:
        roach.source(url="postgresql://u:hunter2@[half")
    assert (refused.value.code, "hunter2" in str(refused.value)) == ("url", False)
