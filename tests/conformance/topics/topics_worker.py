"""A process of its own that writes or reads a mesh. Says on stdout, line by line, what it has done.

topics_worker.py IMPLEMENTATION FOLDER write WRITER COMMITS SEED     one line per commit: its sequence
topics_worker.py IMPLEMENTATION FOLDER read TOPIC UNTIL              one line per event; stops at offset UNTIL
topics_worker.py IMPLEMENTATION FOLDER compact ROUNDS                compacts all that is old enough, which is everything; "done" after each
topics_worker.py IMPLEMENTATION FOLDER register SEED                 one line per schema: subject, version, id, text
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from topics_mesh import NOTHING_OLD, Mesh, flat, opened


def commit_parts(mesh: Mesh, writer: str, sequence: int) -> list:
    """What commit `sequence` of a writer holds, the same in every process: batches of both topics, tagged by their version."""
    chance = random.Random(f"{writer}/{sequence}")
    major = writer_number(writer) * 1_000_000 + sequence
    ops = ["".join(chance.choices("cudr", k=chance.randrange(1, 30))) for _ in range(2)]
    return [
        mesh.batch(topic, ops[i], seed=chance.randrange(10**6), major=major)
        for i, topic in enumerate(chance.sample(["movie", "credit"], k=2))
    ]


def writer_number(writer: str) -> int:
    return int(writer.removeprefix("w"))


def write(mesh: Mesh, writer: str, commits: str, *, state_bytes: int = 200) -> None:
    producer = mesh.topics.open_producer(writer)
    for sequence in range(producer.record.sequence + 1, int(commits) + 1):
        mesh.commit(producer, *commit_parts(mesh, writer, sequence), state={"n": sequence, "pad": "p" * state_bytes})
        print(sequence, flush=True)


def read(mesh: Mesh, topic: str, until: str) -> None:
    offset = 0
    while offset < int(until):
        assert mesh.topics.wait({topic: offset}, 60), f"nothing came after {offset}"
        found = mesh.topics.read(topic, offset, bytes_max=1 << 20)
        for event in flat(found):
            print(json.dumps(event), flush=True)
        offset = mesh.topics.read_end(found)


def compact(mesh: Mesh, rounds: str) -> None:
    for _ in range(int(rounds)):
        mesh.topics.compact(lambda seconds: False)
        print("done", flush=True)


def register(mesh: Mesh, seed: str) -> None:
    texts = [json.dumps({"text": n}) for n in range(30)]
    random.Random(seed).shuffle(texts)
    for n, text in enumerate(texts):
        print(json.dumps(vars(mesh.registry.register(f"subject-{n % 3}", text))), flush=True)


if __name__ == "__main__":
    implementation, folder, what, *rest = sys.argv[1:]
    with opened(implementation, Path(folder), **({"keep": NOTHING_OLD} if what == "compact" else {})) as made:
        {"write": write, "read": read, "compact": compact, "register": register}[what](made, *rest)
