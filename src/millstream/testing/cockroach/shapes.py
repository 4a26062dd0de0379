"""The rarer values: geometry as EWKB, its GeoJSON, boxes, text search, vectors, label trees.

Geometry goes as far as points, line strings and polygons of two dimensions; the rest is refused.
Reference: PostGIS EWKB; RFC 7946; PostgreSQL 17, "Text Search Types".
"""

from __future__ import annotations

import re
import struct

_SRID = 0x20000000
_KINDS = {"POINT": (1, "Point"), "LINESTRING": (2, "LineString"), "POLYGON": (3, "Polygon")}
Points = list[tuple[float, float]]


def _points(text: str) -> Points:
    pairs = [p.split() for p in text.split(",")]
    if any(len(p) != 2 for p in pairs):
        raise ValueError(text)
    return [(float(x), float(y)) for x, y in pairs]


def ewkb(text: str, srid: int) -> str:
    """Well-known text, `SRID=…;` before it or not, or the hex itself → little-endian EWKB in upper-case hex."""
    if re.fullmatch(r"01[0-9A-Fa-f]{8,}", text):
        return text.upper()
    found = re.fullmatch(r"(?:SRID=(\d+);)?\s*(\w+)\s*\((.*)\)\s*", text.strip(), re.IGNORECASE | re.DOTALL)
    if found is None or found[2].upper() not in _KINDS:
        raise ValueError(text)
    kind, srid = _KINDS[found[2].upper()][0], int(found[1] or srid)
    head = struct.pack("<BI", 1, kind | (_SRID if srid else 0)) + (struct.pack("<I", srid) if srid else b"")
    if kind == 3:
        rings = [_points(r) for r in re.findall(r"\(([^()]*)\)", found[3])]
        return (head + struct.pack("<I", len(rings)) + b"".join(_packed(r, counted=True) for r in rings)).hex().upper()
    return (head + _packed(_points(found[3]), counted=kind == 2)).hex().upper()


def _packed(points: Points, *, counted: bool) -> bytes:
    return (struct.pack("<I", len(points)) if counted else b"") + b"".join(struct.pack("<dd", *p) for p in points)


def geojson(hexed: str) -> str:
    """EWKB in hex → GeoJSON text with its members sorted."""
    data = bytes.fromhex(hexed)
    kind = struct.unpack_from("<I", data, 1)[0]
    at, kind = (9 if kind & _SRID else 5), kind & 0xFF
    name = next(n for k, n in _KINDS.values() if k == kind)
    if kind == 1:
        shown = _pair(struct.unpack_from("<dd", data, at))
    elif kind == 2:
        shown, _ = _line(data, at)
    else:
        rings, count = [], struct.unpack_from("<I", data, at)[0]
        at += 4
        for _ in range(count):
            ring, at = _line(data, at)
            rings.append(ring)
        shown = f"[{', '.join(rings)}]"
    return f'{{"coordinates": {shown}, "type": "{name}"}}'


def _pair(point: tuple[float, ...]) -> str:
    return "[" + ", ".join(map(_short, point)) + "]"


def _line(data: bytes, at: int) -> tuple[str, int]:
    count = struct.unpack_from("<I", data, at)[0]
    pairs = [_pair(struct.unpack_from("<dd", data, at + 4 + 16 * i)) for i in range(count)]
    return f"[{', '.join(pairs)}]", at + 4 + 16 * count


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


def box(text: str) -> str:
    found = re.fullmatch(r"BOX\s*\(([^()]*)\)", text.strip(), re.IGNORECASE)
    if found is None or len(points := _points(found[1])) != 2:
        raise ValueError(text)
    return "BOX(" + ",".join(" ".join(map(_short, p)) for p in points) + ")"


def vector(text: str) -> tuple[float, ...]:
    if not (text.strip().startswith("[") and text.strip().endswith("]")):
        raise ValueError(text)
    return tuple(float(n) for n in text.strip()[1:-1].split(","))


def vector_text(value: tuple[float, ...]) -> str:
    return "[" + ",".join(map(_short, value)) + "]"


def tsvector(text: str) -> str:
    """`fat:2 cat:3` → `'cat':3 'fat':2`: words sorted, positions kept."""
    words = re.findall(r"'?([\w.-]+)'?(:[\d,A-D]+)?", text)
    if re.sub(r"\s", "", text).replace("'", "") != "".join(w + p for w, p in words):
        raise ValueError(text)
    return " ".join(f"'{word}'{places}" for word, places in sorted(set(words)))


def tsquery(text: str) -> str:
    """Words quoted, operators with a space on each side."""
    parts = re.findall(r"'[^']*'|[\w.-]+|<->|[&|!()]", text)
    if "".join(parts) != re.sub(r"\s", "", text):
        raise ValueError(text)
    shown = " ".join(p if p in ("&", "|", "!", "(", ")", "<->") or p.startswith("'") else f"'{p}'" for p in parts)
    return shown.replace("! ", "!").replace("( ", "(").replace(" )", ")")


def ltree(text: str) -> str:
    if text and not re.fullmatch(r"[\w-]+(\.[\w-]+)*", text):
        raise ValueError(text)
    return text
