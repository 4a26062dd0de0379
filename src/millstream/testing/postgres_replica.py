"""A streaming replica of a `PostgresServer`, which may lag on purpose: for tests of what reads from one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from millstream.errors import Irrecoverable
from millstream.testing.postgres_server import PostgresServer


class PostgresReplica(PostgresServer):
    """`with PostgresReplica(primary, lag="10s") as replica`. Started, it is a copy of the primary and follows it; what commits is
    shown `lag` later. Without a lag it follows at once. See `PostgresServer` for the rest."""

    def __init__(
        self, primary: PostgresServer, *, lag: str = "0", settings: Mapping[str, str] | None = None, durable: bool = False
    ) -> None:
        following = {"hot_standby": "on", "recovery_min_apply_delay": lag, "primary_conninfo": primary.url("postgres")}
        super().__init__(
            settings={**following, **(settings or {})}, user=primary.user, password=primary.password, durable=False, programs=primary.bin
        )
        self._primary = primary

    def promote(self) -> None:
        """It ends following and is a primary of the next timeline; returns when it is."""
        self.execute("SELECT pg_promote(true, 30)")

    def _initialise(self) -> None:
        """By the server's own functions: not every distribution has pg_basebackup."""
        with self._primary.connect() as backup:
            backup.execute("SELECT pg_backup_start('replica', true)")
            copied = ["cp", "-a", str(self._primary.data), str(self.data)]
            done = subprocess.run([*self._prefix, *copied], capture_output=True, text=True, check=False, **self._identity)
            if done.returncode:
                raise Irrecoverable(f"the base backup failed: {done.stderr[-1000:]}", code="server_start", where=str(self._home))
            row = backup.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchone()
        assert row is not None
        # The primary's own log and slots are no part of a backup: the log is streamed from where the backup began.
        for folder in ("pg_wal", "pg_replslot"):
            for left in (self.data / folder).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        for name, text in (("backup_label", row[0]), ("standby.signal", "")):
            (self.data / name).write_text(text)
            self._own(self.data / name)
