"""`python -m millstream.testing.cockroach`: a stand-in for CockroachDB on a loopback port, until it is stopped or killed.

Prints one line of JSON: the URL to connect to and the port of the control socket (see process.py).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from dataclasses import replace

from millstream.testing.cockroach.faults import DISORDER, RECORDED, REPEATS, Faults
from millstream.testing.cockroach.process import Control
from millstream.testing.cockroach.server import CockroachServer
from millstream.testing.cockroach.store import GC_TTL_S, Store


def _with_parent(control: Control) -> None:
    sys.stdin.read()
    control.stopped.set()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m millstream.testing.cockroach", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--control", type=int, default=0, help="port of the control socket; 0: a free one")
    parser.add_argument("--version", choices=sorted(RECORDED), default="26.1")
    parser.add_argument("--pace", type=float, default=1.0, help="divides every duration: 20 makes a second 50 ms")
    parser.add_argument("--repeats", type=float, default=REPEATS, help="the part of all rows told that were told before, 0 to below 1")
    parser.add_argument(
        "--disorder", type=float, default=DISORDER, help="how often a range keeps rows back while others tell theirs, 0 to 1"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--password", action="append", default=[], metavar="USER=PASSWORD", help="who must log in; others need no password")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    parser.add_argument("--gc-ttl", type=float, default=GC_TTL_S, metavar="S", help="how many seconds back can be read")
    given = parser.parse_args()
    server = CockroachServer(
        given.version,
        store=Store(given.version, gc_ttl_s=given.gc_ttl),
        port=given.port,
        timing=replace(RECORDED[given.version], pace=given.pace),
        faults=Faults(seed=given.seed, repeats=given.repeats, disorder=given.disorder),
        passwords=dict(pair.partition("=")[::2] for pair in given.password),
    )
    with server, Control(server, given.control) as control:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: control.stopped.set())
        threading.Thread(target=control.serve_forever, daemon=True).start()
        if given.with_parent:
            threading.Thread(target=_with_parent, args=(control,), daemon=True).start()
        print(json.dumps({"url": server.url(), "control": control.port}), flush=True)
        control.stopped.wait()
        server.faults.drain()
        control.shutdown()


if __name__ == "__main__":
    main()
