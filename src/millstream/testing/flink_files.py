"""What a Flink of our own is made of, fetched once into a cache outside the checkout and checked against pinned SHA-256 sums.

Flink's distribution comes from PyPI (`apache-flink-libraries` holds its jars; nothing of it is installed), the SQL Gateway by
Maven. It needs a Java 17; Java 25 refuses what Flink 2.3 asks for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from millstream.errors import Refused

VERSION = "2.3.0"
_WHEEL = f"apache-flink-libraries=={VERSION} --hash=sha256:38ece876553286b3a285cf344c2d2038f8a7ca10da5df54d5107250386d64151"
_GATEWAY = f"org.apache.flink:flink-sql-gateway:{VERSION}"
_GATEWAY_SUM = "aad296a152dc367ddd70727f5a57dd61958cff3d8dceb1f947bf8d9705c8d724"
_JAVA = range(11, 22)
_FETCHED_WITHIN_S = 600


def java() -> str:
    """The java program to run Flink with. Raises Refused where there is none, or none that Flink can use."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    cure = "install a Java 17 (Debian, Ubuntu: apt install openjdk-17-jre-headless), or let JAVA_HOME name one"
    if found is None:
        raise Refused("Flink needs a Java, and none is installed", code="no_server_binaries", cure=cure)
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) not in _JAVA:
        raise Refused(f"Flink {VERSION} does not run on this Java: {told.strip()[:100]}", code="no_server_binaries", cure=cure)
    return found


def jars() -> Path:
    """The folder of Flink's jars, fetched on the first call (330 MB). Raises Refused where they cannot be had."""
    cache = Path(os.environ.get("MILLSTREAM_CACHE") or Path.home() / ".cache" / "millstream")
    folder = cache / f"flink-{VERSION}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        making = Path(name) / "jars"
        making.mkdir()
        _fetch_wheel(Path(name), making)
        _fetch_gateway(Path(name), making)
        try:
            making.rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder


def _fetch_wheel(scratch: Path, into: Path) -> None:
    wanted = scratch / "wanted.txt"
    wanted.write_text(_WHEEL + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(scratch), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCHED_WITHIN_S)
    if done.returncode:
        raise _unfetched(done.stderr.strip()[-300:])
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if entry.startswith("pyflink/lib/") and entry.endswith(".jar"):
                with archive.open(entry) as packed, (into / Path(entry).name).open("wb") as jar:
                    shutil.copyfileobj(packed, jar)


def _fetch_gateway(scratch: Path, into: Path) -> None:
    client = shutil.which("mvn")
    if client is None:
        raise _unfetched("its SQL Gateway comes by Maven, and there is no mvn")
    command = [client, "-q", "-B", "-ntp", "dependency:copy", f"-Dartifact={_GATEWAY}", f"-DoutputDirectory={scratch}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCHED_WITHIN_S, cwd=scratch)
    if done.returncode:
        raise _unfetched((done.stdout + done.stderr).strip()[-300:])
    (jar,) = scratch.glob("flink-sql-gateway-*.jar")
    if hashlib.sha256(jar.read_bytes()).hexdigest() != _GATEWAY_SUM:
        raise _unfetched(f"{_GATEWAY} is not the file that is pinned here")
    shutil.move(jar, into)


def _unfetched(why: str) -> Refused:
    return Refused(
        f"Flink {VERSION} cannot be fetched: {why}",
        code="no_server_binaries",
        cure="let pip and Maven reach their registries; install Maven where there is none",
    )
