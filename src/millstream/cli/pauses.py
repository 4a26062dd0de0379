"""When an owner is told: a part has paused, or goes on after that; once each, over restarts of the process, wherever it was killed.

What a part was last seen to do does not say it: after a restart one that paused runs until it has come to the same place again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from millstream.cli.mesh import Mesh
from millstream.cli.status import when
from millstream.errors import MillstreamError
from millstream.notices.teller import Notice

log = logging.getLogger("millstream.run")

_GOES_ON = ("running", "caught_up", "stopped")


class Pauses:
    """Hears every state of every part, from the parts' threads. `tell` takes the notices and never fails."""

    def __init__(self, mesh: Mesh, tell: Callable[[Notice], None]) -> None:
        self._mesh, self._tell = mesh, tell
        self._paused = mesh.catalogue.told()  # known to their owners

    def heard(self, part: str, state: str, reason: str, cure: str) -> None:
        if state == "paused" and self._paused.get(part) != reason:
            self._paused[part] = reason
            self._say(part, "paused", reason, cure)
            self._keep(lambda: self._mesh.catalogue.note_told(part, reason))
        elif state in _GOES_ON and part in self._paused and not self._stands(part):
            was = self._paused.pop(part)
            self._say(part, "resumed", f"it goes on where it was {was.partition(': ')[2] or was}", "")
            self._keep(lambda: self._mesh.catalogue.forget_told(part))

    def _keep(self, note: Callable[[], None]) -> None:
        try:
            note()
        except MillstreamError as error:
            log.warning("what an owner was told could not be kept, and may be told again: %s", error)

    def _stands(self, part: str) -> bool:
        """Whether what it paused for is still ruled so: after a restart it comes to the same place again."""
        try:
            ruled = self._mesh.catalogue.verdicts.of(part)
        except MillstreamError as error:
            log.warning("whether %s goes on could not be found out: %s", part, error)
            return True
        return bool(ruled) and ruled[-1].verdict == "pause"

    def _say(self, part: str, state: str, reason: str, cure: str) -> None:
        self._tell(Notice(self._mesh.project.mesh.name, part, self._owner(part), state, reason, cure, when(time.time()) or ""))

    def _owner(self, part: str) -> str:
        kind, _, name = part.partition(".")
        pipeline = name if kind == "pipeline" else name.partition(".")[0]
        product = pipeline.partition("@")[0]
        given = self._mesh.project
        owners = {p.name: p.owner for p in given.pipelines} | {p.name: p.owner for p in given.products}
        return owners.get(pipeline, owners.get(product, ""))
