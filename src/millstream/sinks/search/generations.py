"""Generations of an index: one folder each, and a small file that says which of them is asked.

The folder of generation n of index `movie` is `movie@n`; an index that has no generations is the one folder `movie`. The
file `movie.live` names the live folder; replacing it is the switch. Who asks for `movie` is led to the live folder, and
keeps what it has opened: a query that began before a switch ends on what it began with.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from millstream.errors import Irrecoverable, Refused
from millstream.sinks.files import explained, make_folder, replace_file, sync_folder

FOLDER = "search"
_FOLDER = re.compile(r"(?P<index>[A-Za-z0-9][A-Za-z0-9_-]*)(?:@(?P<number>[1-9][0-9]*))?")


def index_path(place: Path, folder: str) -> Path:
    """Where the index of this very folder name lies, under a mesh's data folder."""
    return place / FOLDER / folder


def index_of(folder: str) -> str:
    """The index that a folder is a generation of."""
    return folder.partition("@")[0]


def folders(place: Path, index: str) -> list[str]:
    """The folders of an index that hold one, oldest generation first."""
    home = place / FOLDER
    found = [m for p in home.glob(f"{index}*") if (m := _FOLDER.fullmatch(p.name)) and m["index"] == index] if home.is_dir() else []
    there = [m for m in found if (home / m.string / "meta.json").exists()]
    return [m.string for m in sorted(there, key=lambda m: int(m["number"] or 0))]


def indexes(place: Path) -> list[str]:
    """The names of the indexes under a mesh's data folder."""
    home = place / FOLDER
    return sorted({index_of(p.name) for p in home.iterdir() if (p / "meta.json").exists()}) if home.is_dir() else []


def live(place: Path, index: str) -> str:
    """The live folder of an index; the index's own name where none was ever switched. A folder's name (`movie@2`) is its own.

    Raises Irrecoverable("index_damaged") where the file does not name a folder of this index.
    """
    try:
        named = _live_file(place, index).read_text().strip()
    except OSError:
        return index
    found = _FOLDER.fullmatch(named)
    if found is None or found["index"] != index:
        raise Irrecoverable(
            f"the file does not name a generation of {index}: {named[:80]!r}",
            code="index_damaged",
            where=str(_live_file(place, index)),
            cure=f"write the name of one of its folders into it: {', '.join(folders(place, index)) or 'there is none'}",
        )
    return named


def switch(place: Path, index: str, folder: str) -> None:
    """Make `folder` the live one, in one step and durably. A second call changes nothing.

    Raises Refused("unknown_generation") where the folder holds no index, or another's; Refused or Irrecoverable as files say.
    """
    if index_of(folder) != index or not (index_path(place, folder) / "meta.json").exists():
        raise Refused(
            f"{folder!r} is no generation of index {index!r}",
            code="unknown_generation",
            where=str(place / FOLDER),
            cure=f"one of: {', '.join(folders(place, index))}" if folders(place, index) else "build the generation first",
        )
    try:
        replace_file(_live_file(place, index), f"{folder}\n".encode())
    except OSError as error:
        raise explained(error, "switch the index", str(_live_file(place, index))) from error


def remove(place: Path, index: str, folder: str) -> None:
    """Delete a generation that is not live. One that is not there is no mistake.

    Its name goes first, so that nobody finds half of it. Raises Refused("generation_live").
    """
    if folder == live(place, index):
        raise Refused(
            f"{folder!r} is the generation that is asked",
            code="generation_live",
            where=str(_live_file(place, index)),
            cure="switch to another generation first",
        )
    path = index_path(place, folder)
    gone = path.with_name(f".{folder}.gone")
    try:
        make_folder(path.parent)
        if path.exists():
            shutil.rmtree(gone, ignore_errors=True)
            path.replace(gone)
            sync_folder(path.parent)
        shutil.rmtree(gone, ignore_errors=True)
    except OSError as error:
        raise explained(error, "delete the generation", str(path)) from error


def _live_file(place: Path, index: str) -> Path:
    return place / FOLDER / f"{index}.live"
