"""``python -m tests.chaos``: all the kills, outside the usual tests. Exit status 1: a broken promise."""

from __future__ import annotations

import argparse
import sys

from tests.chaos.running import play


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs at seeded moments and compare what is left.")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tally = play(arguments.database, arguments.kills, arguments.seed, lambda line: print(line, flush=True))
    print(f"\n{arguments.database}: {tally}")
    for point, count in tally.points.most_common():
        print(f"  {count:>4} killed {point}")
    for problem in tally.problems:
        print(f"  PROBLEM {problem}")
    return 1 if tally.problems or tally.paid_twice or tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
