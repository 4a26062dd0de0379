"""A real Apicurio Registry for tests, which has the API of Confluent's: a child process on a free loopback port, all in memory.

Its archive comes by Maven, once, into a cache outside the checkout, and is checked against a pinned SHA-256 sum. It stops with
its parent, even one that was killed. It needs a Java 17 or newer.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from types import TracebackType

from millstream.errors import Irrecoverable, Refused
from millstream.testing.flink_files import java

VERSION = "2.6.13.Final"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_SUM = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
_JAR = f"apicurio-registry-app-{VERSION}-runner.jar"
_API = "/apis/ccompat/v7"
_FETCHED_WITHIN_S = 600
_STARTS_WITHIN_S = 120.0
_STOPS_WITHIN_S = 10.0
_PAUSE_S = 0.1
_WATCH = 'read _; folder=$1; kill -9 "$2"; rm -rf "$folder"'


def files() -> Path:
    """The folder of its jars, fetched on the first call (140 MB). Raises Refused where they cannot be had."""
    cache = Path(os.environ.get("MILLSTREAM_CACHE") or Path.home() / ".cache" / "millstream")
    folder = cache / f"apicurio-{VERSION}"
    if folder.exists():
        return folder
    client = shutil.which("mvn")
    if client is None:
        raise _unfetched("it comes by Maven, and there is no mvn")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as name:
        command = [client, "-q", "-B", "-ntp", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCHED_WITHIN_S, cwd=name)
        if done.returncode:
            raise _unfetched((done.stdout + done.stderr).strip()[-300:])
        (archive,) = Path(name).glob("*.tar.gz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != _SUM:
            raise _unfetched(f"{_ARTIFACT} is not the file that is pinned here")
        with tarfile.open(archive) as packed:
            packed.extractall(Path(name) / "app", filter="data")
        try:
            (Path(name) / "app").rename(folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder


class ApicurioServer:
    """`with ApicurioServer() as url:` the base of its Confluent API. Raises Refused where Java or its files cannot be had."""

    def __init__(self) -> None:
        self._java, self._files = java(), files()
        self._home = Path(tempfile.mkdtemp(prefix="millstream-apicurio-"))
        self._log = self._home / "apicurio.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        port = _free_port()
        command = [self._java, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}", "-jar", str(self._files / _JAR)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._home, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        # Ends it when its own standard input ends, which is when this process does, however that came about.
        watch = ["/bin/sh", "-c", _WATCH, "watch", str(self._home), str(self._process.pid)]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while not _answers(port):
            if self._process.poll() is not None or time.monotonic() > give_up:
                log_tail = self._log.read_text(errors="replace")[-2000:]
                self.stop()
                raise Irrecoverable(f"Apicurio did not start:\n{log_tail}", code="server_start")
            time.sleep(_PAUSE_S)
        return f"http://127.0.0.1:{port}{_API}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and remove its files. A second call does nothing."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._home, ignore_errors=True)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"{_API}/subjects")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unfetched(why: str) -> Refused:
    return Refused(
        f"Apicurio {VERSION} cannot be fetched: {why}",
        code="no_server_binaries",
        cure="let Maven reach its registry; install Maven where there is none",
    )
