"""`python -m demo.films [--rows N] [--keep]`."""

import argparse
import sys

from demo.films.data import MOVIES, MOVIES_MIN
from demo.films.run import main


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo.films",
        description="Millstream on ten tables of a CockroachDB, judged by its own rows. The last line is JSON. "
        "MILLSTREAM_COCKROACH_URL names a real cluster; without it a stand-in runs.",
    )
    parser.add_argument("--rows", type=int, default=MOVIES, metavar="N", help="so many movies, about 15 rows each (at least 20)")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and say how to look around in it")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="so many times faster than a real cluster's are the resolved times of the stand-in"
    )
    arguments = parser.parse_args()
    if arguments.rows < MOVIES_MIN:
        parser.error(f"--rows: fewer than {MOVIES_MIN} movies do not hold every case")
    return arguments


if __name__ == "__main__":
    given = _arguments()
    sys.exit(main(given.rows, given.keep, given.pace))
