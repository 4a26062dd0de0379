"""How a route is written in the index: the member of its JSON fields under which the route's values lie.

Names are joined with /, what lies inside a json column follows //. A name with other signs than letters, digits and _ is
written as __ and its bytes: the index's own syntax then never meets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from millstream.queries.fields import Names, Route

_PLAIN = re.compile(r"(?!__)[A-Za-z0-9_]+")


def key(names: Names, inside: Names = ()) -> str:
    outer = _path(names)
    return f"{outer}//{_path(inside)}" if inside else outer


def key_of(route: Route) -> str:
    return key(route.whole, route.inside)


def _path(names: Iterable[str]) -> str:
    return "/".join(n if _PLAIN.fullmatch(n) else f"__{n.encode('utf-8', 'surrogatepass').hex()}" for n in names)
