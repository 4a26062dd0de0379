"""A list that is null stays null in pyiceberg's hands, where its own projection makes it empty (0.12, lists of records).

Rows pass that projection when they are written and when they are scanned. `correct` mends both, in this process; a
stock pyiceberg elsewhere still shows such a list as empty, other engines show what the files hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.io import pyarrow as projecting

_Stock: Any = projecting.ArrowProjectionVisitor


class NullLists(_Stock):  # type: ignore[misc]
    """The projection with the nulls of lists kept."""

    def list(self, list_type: Any, list_array: pa.Array | None, value_array: pa.Array | None) -> pa.Array | None:
        made = super().list(list_type, list_array, value_array)
        if made is None or list_array is None or made.null_count == list_array.null_count:
            return made
        return type(made).from_arrays(pa.array(np.asarray(made.offsets)), made.values, type=made.type, mask=list_array.is_null())


def correct() -> None:
    """Called again, it changes nothing."""
    projecting.ArrowProjectionVisitor = NullLists
