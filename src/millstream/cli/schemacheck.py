"""`millstream schemas check`: a schema in a file, judged before it is registered. For a pipeline of a user's own, in CI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from millstream.cli import columns
from millstream.cli.exits import FAILED, OK
from millstream.cli.impact import Asking
from millstream.cli.mesh import Mesh
from millstream.cli.output import counted
from millstream.cli.schemadiff import operation_document
from millstream.cli.session import Here
from millstream.cli.subjects import Subject, found
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines.policy import Policy
from millstream.schemas.avrocompat import AVRO_MODES, AvroMode, check
from millstream.schemas.given import given_schema
from millstream.schemas.operations import Operation, operations
from millstream.schemas.rules import MODES, Change, Mode, Violation, judge_change

REGISTRIES_DEFAULT: AvroMode = "BACKWARD"


@dataclass(frozen=True)
class Found:
    """A violation; `consumer` and `owner`: of whom, "" where it stands whoever reads the topic."""

    violation: Violation
    consumer: str = ""
    owner: str = ""


def check_file(
    subject: str,
    file: Path,
    /,
    *,
    mode: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Here,
) -> int:
    """Judge a schema in a file as the next version of a subject: by its mode, by what each consumer uses, by the project's rules.

    Nothing is registered. The exit code is 1 where it must not be: what, where, why and the cure are said.

    Example: `millstream schemas check shop.public.orders orders.avsc`

    Example: `millstream schemas check shop.public.orders-key key.avsc --mode FULL_TRANSITIVE`

    Parameters
    ----------
    subject
        A topic, for the schema of its rows, or any subject that `millstream schemas list` names.
    file
        An Avro schema: of a topic, the envelope or a record of the columns.
    mode
        Another mode than the files say, as in `compatibility:`. A subject that is no topic's has BACKWARD.
    """
    wanted = _mode(mode)
    text = _text(file)
    with session.mesh() as mesh:
        there = found(mesh, subject)
        if there.topic:
            new = given_schema(text, there.history[-1], str(file))
            said = operations(there.history[-1], new)
            held = wanted or Policy(mesh.project).mode("", there.topic)
            against = [*_of_topic(mesh, there, new, held), *_of_consumers(mesh, there, new, wanted)]
        else:
            said, held = (), wanted or REGISTRIES_DEFAULT
            against = [Found(v) for v in _of_texts(there, text, held)]
    violations = _once(against)
    _show(session, there, held, said, violations)
    return FAILED if violations else OK


def _once(against: Iterable[Found]) -> list[Found]:
    """Each reason once, as it was found first: a mode says the same of the topic and of every reader."""
    first: dict[tuple[str, str, str], Found] = {}
    for one in against:
        first.setdefault((one.violation.what, one.violation.where, one.violation.why), one)
    return list(first.values())


def _mode(given: str | None) -> Mode | None:
    for mode in MODES:
        if given == mode:
            return mode
    if given is not None:
        raise Refused(f"there is no mode {given}", code="unknown_mode", where="--mode", cure=f"name one of {', '.join(MODES)}")
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise Refused(f"the file cannot be read: {e}", code="schema_file", where=str(file), cure="name a file with an Avro schema") from e


def _of_topic(mesh: Mesh, there: Subject, new: RowSchema, mode: Mode) -> Iterator[Found]:
    """What stands against it whoever reads the topic."""
    said = columns.said(mesh.project, there.topic)
    for violation in judge_change(
        Change(
            consumer="",
            owner=said.owner,
            topic=there.topic,
            source=there.topic.partition(".")[0].partition("@")[0],
            old=there.history[-1],
            new=new,
            columns_used=frozenset(),
            topic_domain=said.domain,
            earlier=there.history,
        ),
        mesh.project.rules,
        mode,
    ):
        yield Found(violation)


def _of_consumers(mesh: Mesh, there: Subject, new: RowSchema, mode: Mode | None) -> Iterator[Found]:
    """What would pause those who read the topic, and those who read what they write."""
    for a in Asking.of(mesh).impact(there.topic, there.history[-1], new, mode).affected:
        for violation in a.verdict.reasons:
            yield Found(violation, f"{a.pipeline}.{a.part}", a.owner)


def _of_texts(there: Subject, text: str, mode: Mode) -> Iterator[Violation]:
    for known in AVRO_MODES:
        if mode == known:
            for breach in check(known, text, [v.text for v in there.versions]):
                version = there.versions[breach.earlier].version
                reads = "cannot read" if breach.direction == "backward" else "cannot be read by"
                cure = "undo the change, or check it under another --mode"
                yield Violation(
                    f"not {mode}: {breach.message}", f"{there.name}.{breach.path}", f"the new schema {reads} version {version}", cure
                )


def _show(session: Here, there: Subject, mode: Mode, said: Iterable[Operation], violations: list[Found]) -> None:
    out = session.output
    name = there.topic or there.name
    out.say(f"{name}, after version {there.versions[-1].version}, under {mode}", "bold")
    for operation in said:
        out.say(f"  {operation}")
    for one in violations:
        v = one.violation
        out.say(f"{v.where}: {v.what}{f' [{v.rule}]' if v.rule else ''}", "red")
        out.say(f"  {v.why}" + (f": {one.consumer}, of {one.owner}" if one.consumer else ""))
        out.say(f"  cure: {v.cure}")
    out.say(counted(len(violations), "violation") if violations else "nothing stands against it", "red" if violations else "green")
    told = [{**asdict(f.violation), "consumer": f.consumer, "owner": f.owner} for f in violations]
    document = {"subject": there.name, "version": there.versions[-1].version, "mode": mode, "violations": told}
    out.document({**document, "operations": [operation_document(o) for o in said]})
