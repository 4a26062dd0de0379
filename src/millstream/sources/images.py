"""What every source makes of a row's images: holes as a column, a changed key as two events, positions as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable
from millstream.events.batch import HOLES
from millstream.events.version import hex_text
from millstream.sources.octets import Mask

# (row, image, field, why): a value that its column's type cannot hold.
Hole = tuple[int, str, str, str]


def unfit_key(table: str, column: str, why: str, where: str) -> Irrecoverable:
    """A key holds what its column type cannot: no event could say which row it means."""
    return Irrecoverable(
        f"a row of {table} has a key that no event can carry: {column} is {why.replace('_', ' ')}",
        code="unfit_key",
        where=f"{where} {table}.{column}",
        cure="give that row another key and begin again under another source name, or leave the table out of the definition",
    )


def positions(major: npt.NDArray[np.uint64], minor: npt.NDArray[np.uint32]) -> pa.StringArray:
    """Each as the text of `events.progress.Position`."""
    return pc.binary_join_element_wise(hex_text(major), hex_text(minor), ".")


def deleted_and_created(given: dict[str, Any], moved: Mask) -> dict[str, Any]:
    """Each moved row twice, with one version: the old key's delete, then the new key's create."""
    twice = np.repeat(np.arange(len(moved)), np.where(moved, 2, 1))
    second = np.zeros(len(twice), np.bool_)
    second[1:] = twice[1:] == twice[:-1]
    first = moved[twice] & ~second
    out = {name: column.take(pa.array(twice)) for name, column in given.items()}
    out["op"] = pc.if_else(pa.array(first), "d", pc.if_else(pa.array(second), "c", out["op"]))
    out["before"] = pc.if_else(pa.array(second), pa.scalar(None, out["before"].type), out["before"])
    out["after"] = pc.if_else(pa.array(first), pa.scalar(None, out["after"].type), out["after"])
    if out["holes"].null_count < len(twice):
        said = zip(out["holes"].to_pylist(), first.tolist(), second.tolist(), strict=True)
        out["holes"] = pa.array([_of_present_images(*each) for each in said], HOLES)
    return out


def _of_present_images(holes: list[dict[str, str]] | None, deleted: bool, created: bool) -> list[dict[str, str]] | None:
    gone = "after" if deleted else "before" if created else None
    return [h for h in holes or [] if h["image"] != gone] or None


def holes_column(found: list[Hole], rows: int) -> pa.Array:
    """The `holes` of a batch: for each row those found in it, null for none."""
    if not found:
        return pa.nulls(rows, HOLES)
    by_row: list[list[dict[str, str]] | None] = [None] * rows
    for row, image, name, why in found:
        here = by_row[row] or []
        by_row[row] = [*here, {"image": image, "field": name, "why": why}]
    return pa.array(by_row, HOLES)
