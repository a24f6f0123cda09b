"""Measure the package against its peers, on one machine in one run.

    taskset -c 1 python -m tests.benchmarks [NAME…] [--rounds 7] [--json now.json] [--earlier before.json]

Without names all are run. Peers are those that are installed: `pip install -e .[bench]`. Times are CPU seconds of this
process and its children, so that a busy machine does little harm; every ratio is of two runs in the same round.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .cases import CASES
from .paired import describe_machine, from_json, heading, measure, table, to_json


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--earlier", type=Path, help="compare with the numbers of this file")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - CASES.keys()):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(CASES)}")
    torch.set_num_threads(given.threads)
    earlier = {each.name: each for each in from_json(given.earlier.read_text())} if given.earlier else {}
    machine, results = describe_machine(), []
    print(heading(machine), flush=True)
    for name in given.names or CASES:
        for case in CASES[name]():
            print(f"{case.name} …", file=sys.stderr)
            results.append(measure(case, rounds=given.rounds))
            print(table(results[-1], earlier=earlier.get(case.name)), flush=True)
    if given.json:
        given.json.write_text(to_json(results, machine))


main()
