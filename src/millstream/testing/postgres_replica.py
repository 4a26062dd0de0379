"""A streaming replica of a `PostgresServer`, which may lag on purpose: for tests of what reads from one."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from millstream.errors import Irrecoverable
from millstream.testing.postgres_server import PostgresServer


class PostgresReplica(PostgresServer):
    """`with PostgresReplica(primary, lag="10s") as replica`. Started, it is a copy of the primary and follows it; what commits is
    shown `lag` later. Without a lag it follows at once. See `PostgresServer` for the rest."""

    def __init__(
        self, primary: PostgresServer, *, lag: str = "0", settings: Mapping[str, str] | None = None, durable: bool = False
    ) -> None:
        following = {"hot_standby": "on", "recovery_min_apply_delay": lag, "primary_conninfo": primary.url("postgres")}
        super().__init__(settings={**following, **(settings or {})}, user=primary.user, password=primary.password, durable=False)
        self._primary = primary

    def promote(self) -> None:
        """It ends following and is a primary of the next timeline; returns when it is."""
        self.execute("SELECT pg_promote(true, 30)")

    def _initialise(self) -> None:
        command = [
            *self._prefix,
            str(self.bin / "pg_basebackup"),
            "-D",
            str(self.data),
            "-d",
            self._primary.url(),
            "-X",
            "stream",
            "-c",
            "fast",
        ]
        done = subprocess.run([*command, "--no-sync"], capture_output=True, text=True, check=False, **self._identity)
        if done.returncode:
            raise Irrecoverable(f"pg_basebackup failed: {done.stderr[-1000:]}", code="server_start", where=str(self._home))
        signal_file = Path(self.data) / "standby.signal"
        signal_file.touch()
        self._own(signal_file)
