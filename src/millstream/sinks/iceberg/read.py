"""Reading a changelog table: the latest row of each key. Writing it is the sink's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import load_catalog

from millstream.sinks.iceberg.render import META
from millstream.sinks.iceberg.transport import CATALOG_NAME, local_properties


def table(place: Path, name: str) -> Any:
    """The pyiceberg table `name` ("namespace.table") of the catalogue in a mesh's data folder. Raises NoSuchTableError."""
    return load_catalog(CATALOG_NAME, **local_properties(place)).load_table(name)


def current_rows(changelog: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows as they are now: of each key the latest by version, then offset, unless it is a delete; without `META`'s columns.

    The order is that of the latest changes. Of several topics in one table, each key must stand in one topic only.
    """
    ordered = changelog.sort_by([("_version", "ascending"), ("_offset", "ascending")])
    numbered = ordered.select(list(key)).append_column("_row", pa.array(np.arange(len(ordered))))
    last = np.sort(numbered.group_by(list(key)).aggregate([("_row", "max")])["_row_max"].to_numpy())
    latest = ordered.take(pa.array(last))
    present = latest.filter(pc.not_equal(latest["_op"], "d"))
    return present.drop_columns([name for name in META if name in present.column_names])


def current_rows_sql(relation: str, key: Sequence[str]) -> str:
    """The same as DuckDB text over a relation (a table's name, or iceberg_scan('…'))."""
    columns = ", ".join('"{}"'.format(name.replace('"', '""')) for name in key)
    return (
        f"SELECT * EXCLUDE ({', '.join(META)}) FROM (SELECT * FROM {relation} "
        f"QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY _version DESC, _offset DESC) = 1) WHERE _op <> 'd'"
    )
