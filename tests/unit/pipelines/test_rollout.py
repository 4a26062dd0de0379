"""Wanted and actual → steps: the order, nothing to do, and that doing the steps leaves nothing to do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from millstream.events.types import Field, RowSchema, Type, record_of
from millstream.pipelines.rollout import Actual, Pipeline, Product, Step, Topic, Wanted, rollout

from .conftest import schema

A = schema("id", "id int64; name text")
WIDER = schema("id", "id int64; name text; more text")
RETYPED = schema("id", "id int64; name int32")
REKEYED = replace(A, key=("name",))

topics = st.dictionaries(
    st.sampled_from(["s.a", "s.b", "p.out"]), st.builds(Topic, st.sampled_from([A, WIDER, RETYPED]), st.integers(1, 3))
)
names = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]))
pipelines = st.dictionaries(
    st.sampled_from(["p", "q"]),
    st.builds(
        Pipeline,
        st.sampled_from(["f", "g"]),
        st.dictionaries(st.sampled_from(["s.a", "s.b"]), st.integers(1, 2)),
        st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"])),
    ),
)
generations = st.dictionaries(st.integers(1, 3), st.just("text"), min_size=1, max_size=2)
numbers = st.integers(0, 3)
a_product = generations.flatmap(lambda g: st.builds(Product, st.just(g), numbers, numbers, st.sampled_from(sorted(g))))
products = st.dictionaries(st.sampled_from(["d", "e"]), a_product)
RANK = ("drop_generation build_generation switch_generation stop_product",
        "create_topic register_schema raise_incarnation", "start_connector restart_connector",
        "deploy_pipeline rebuild_pipeline accept_schema start_sink restart_sink", "stop_sink stop_pipeline stop_connector")  # fmt: skip


def done(steps: tuple[Step, ...], wanted: Wanted, actual: Actual) -> Actual:
    """What runs after the steps: each step is taken at its word, and what no step names stays as it was."""
    topics, pipelines, connectors = dict(actual.topics), dict(actual.pipelines), dict(actual.connectors)
    for step in steps:
        name = step.subject
        match step.kind:
            case "create_topic" | "register_schema":
                topics[name] = wanted.topics[name]
            case "start_connector" | "restart_connector":
                connectors[name] = wanted.connectors[name]
            case "stop_connector":
                del connectors[name]
            case "deploy_pipeline":
                pipelines[name] = replace(wanted.pipelines[name], sinks={})
            case "rebuild_pipeline":
                pipelines[name] = replace(pipelines[name], fingerprint=wanted.pipelines[name].fingerprint)
            case "accept_schema":
                pipelines[name] = replace(pipelines[name], accepts=wanted.pipelines[name].accepts)
            case "stop_pipeline":
                del pipelines[name]
            case "start_sink" | "restart_sink":
                owner = next(n for n, p in wanted.pipelines.items() if name in p.sinks and pipelines[n].sinks.get(name) != p.sinks[name])
                pipelines[owner] = replace(pipelines[owner], sinks={**pipelines[owner].sinks, name: wanted.pipelines[owner].sinks[name]})
            case "stop_sink":
                for n, p in pipelines.items():
                    if name in p.sinks and name not in (wanted.pipelines[n].sinks if n in wanted.pipelines else {}):
                        pipelines[n] = replace(p, sinks={k: v for k, v in p.sinks.items() if k != name})
                        break
    return Actual(topics, pipelines, connectors, after_products(steps, wanted, actual))


def after_products(steps: tuple[Step, ...], wanted: Wanted, actual: Actual) -> dict[str, Product]:
    products = dict(actual.products)
    for step in steps:
        name, _, number = step.subject.partition("@")
        match step.kind:
            case "drop_generation":
                left = {g: t for g, t in products[name].generations.items() if g != int(number)}
                products[name] = replace(products[name], generations=left)
            case "build_generation" | "switch_generation":
                now, want = products.get(name, Product({}, 0, 0, 0)), wanted.products[name]
                products[name] = replace(now, generations={**now.generations, int(number): "text"}, next=want.next, applied=want.applied)
            case "stop_product":
                del products[name]
    return products


@given(st.builds(Wanted, topics, pipelines, names, products), st.builds(Actual, topics, pipelines, names, products))
def test_doing_the_steps_leaves_nothing_to_do_and_they_stand_in_order(wanted: Wanted, actual: Actual) -> None:
    steps = rollout(wanted, actual)
    ranks = [next(i for i, kinds in enumerate(RANK) if s.kind in kinds.split()) for s in steps]
    assert ranks == sorted(ranks)
    after = done(steps, wanted, actual)
    left = [s for s in rollout(wanted, after) if s.kind != "accept_schema" or set(after.pipelines[s.subject].accepts)]
    assert left == []


def test_a_first_rollout_reads_as_a_list() -> None:
    wanted = Wanted({"s.a": Topic(A)}, {"p": Pipeline("f", {"s.a": 0}, {"p.out.jsonl": "1"})}, {"s": "1"})
    assert [str(s) for s in rollout(wanted, Actual())] == [
        "create topic s.a: key (id)",
        "register schema of s.a: 2 columns",
        "start connector s",
        "deploy pipeline p: reads s.a",
        "start sink p.out.jsonl",
    ]


def test_a_changed_type_begins_the_topic_anew_and_rebuilds_its_readers() -> None:
    running = Actual({"s.a": Topic(A, 1)}, {"p": Pipeline("f", {"s.a": 1})})
    steps = rollout(Wanted({"s.a": Topic(RETYPED)}, {"p": Pipeline("f", {"s.a": 2})}), running)
    assert [s.kind for s in steps] == ["register_schema", "raise_incarnation", "rebuild_pipeline", "accept_schema"]
    assert "text is now int32" in str(steps[0])
    steps = rollout(Wanted({"s.a": Topic(REKEYED)}, {}), running)
    assert [s.kind for s in steps] == ["register_schema", "raise_incarnation", "stop_pipeline"]


def test_a_wider_type_and_a_new_member_begin_nothing_anew() -> None:
    """What was written in the old type is read in the new one."""

    def row(number: str, *members: tuple[str, Type]) -> RowSchema:
        return RowSchema((Field("id", Type("int64"), 1), Field("n", Type(number), 2), Field("r", record_of(*members), 3)), ("id",))  # type: ignore[arg-type]

    a, b = ("a", Type("text")), ("b", Type("text"))
    running = Actual({"p.a": Topic(row("int32", a, b), 1)})
    covered = [row("int64", a, b), row("int32", a), row("int32", a, b, ("c", Type("date")))]
    uncovered = [row("int32", a, ("b", Type("date"))), row("text", a, b)]
    for wanted in (*covered, *uncovered):
        kinds = [s.kind for s in rollout(Wanted({"p.a": Topic(wanted)}, {}), running)]
        assert kinds == ["register_schema", *["raise_incarnation"] * (wanted in uncovered)]


def test_an_added_column_is_registered_and_accepted_without_a_rebuild() -> None:
    running = Actual({"s.a": Topic(A, 1)}, {"p": Pipeline("f", {"s.a": 1})})
    steps = rollout(Wanted({"s.a": Topic(WIDER)}, {"p": Pipeline("f", {"s.a": 2})}), running)
    assert [str(s) for s in steps] == ["register schema of s.a: added more (text)", "accept schema for p: s.a at schema 2, was schema 1"]
