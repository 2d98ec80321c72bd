"""`python -m bench`: prints what, floor, ours, ratio and target, and exits 1 if a target is missed."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final

from bench import authority, keys, large, manykeys, memory, pages, secondwall, sites, small
from bench.plan import FULL, QUICK, Plan
from bench.result import Result, as_table
from bench.world import World, open_world

BENCHES: Final[dict[str, Callable[[World, Plan], Iterator[Result]]]] = {
    "large": large.run,
    "small": small.run,
    "memory": memory.run,
    "pages": pages.run,
    "second-wall": secondwall.run,
    "keys": keys.run,
    "many-keys": manykeys.run,
    "copies": sites.copies,
    "sync": sites.sync,
    "lag": sites.lag,
    "resync": sites.resync,
    "merge": sites.merge,
    "authority": authority.run,
}


def main() -> int:
    """Measure and report; 1 if a target is missed."""
    arguments = _arguments()
    # So that a run told to stop ends its servers and removes its files, as one interrupted does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = list(_measured(arguments.only or list(BENCHES), QUICK if arguments.quick else FULL))
    if arguments.json:
        print(json.dumps([result.as_json() for result in results], ensure_ascii=False, indent=2))
    else:
        print(as_table(results))
    return int(any(result.is_met is False for result in results))


def _measured(names: list[str], plan: Plan) -> Iterator[Result]:
    with open_world() as world:
        for name in names:
            for result in BENCHES[name](world, plan):
                # At once, so that a run that breaks off has not measured for nothing.
                print("bench:", "; ".join(filter(None, result.as_row())), file=sys.stderr)
                yield result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHES, help="may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, fewer rounds: 2 minutes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
