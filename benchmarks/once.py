"""Time one implementation on one problem in this interpreter and print seconds and criterion as JSON."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import peers
import problems
from timing import sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", choices=problems.MODELS)
    parser.add_argument("implementation", choices=peers.IMPLEMENTATIONS)
    parser.add_argument("--folder", type=Path, default=problems.default_folder())
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    peer = peers.load(options.implementation)
    call = peers.prepare(peer, problems.load(options.problem, options.folder))
    criterion = peer.result(call()).criterion  # also the warm-up
    print(json.dumps({"seconds": sample(call), "criterion": criterion}))


if __name__ == "__main__":
    main()
