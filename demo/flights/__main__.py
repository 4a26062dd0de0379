"""`python -m demo.flights [--rows N] [--keep]`."""

import argparse
import sys

from demo.flights.data import FLIGHTS_TOTAL
from demo.flights.run import main


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Millstream on real data, judged by Postgres. The last line is JSON.")
    parser.add_argument("--rows", type=int, default=FLIGHTS_TOTAL, metavar="N", help="only the first N flights (at least 1000)")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and say how to look around in it")
    arguments = parser.parse_args()
    if arguments.rows < 1000:
        parser.error("--rows: fewer than 1000 flights do not hold every case")
    return arguments


if __name__ == "__main__":
    given = _arguments()
    sys.exit(main(min(given.rows, FLIGHTS_TOTAL), given.keep))
