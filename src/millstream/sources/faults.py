"""Faults that a person can mend, collected so that all are told at once."""

from __future__ import annotations

from typing import NamedTuple

from millstream.errors import Refused


class Fault(NamedTuple):
    """`cure` is SQL to run where SQL mends it."""

    code: str
    said: str
    cure: str


def refused(faults: list[Fault], where: str) -> Refused:
    """All of them in one error; its code is the first one's."""
    if len(faults) == 1:
        code, said, cure = faults[0]
        return Refused(said, code=code, where=where, cure=cure)
    said = f"{len(faults)} things are missing:" + "".join(f"\n  {i}. {fault.said}" for i, fault in enumerate(faults, 1))
    cure = "".join(f"\n  {i}. {fault.cure}" for i, fault in enumerate(faults, 1))
    return Refused(said, code=faults[0].code, where=where, cure=cure)
