"""Time that the plugin adds to the start of a Python process that does not use it.

    python benchmarks/start_up.py [--runs 15]

The plugin has to be installed in the environment that runs the script. The script prints the least
and the median time of the import in microseconds, as `python -X importtime` reports it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys


def microseconds() -> int:
    """Return the time of one process for importing `sadr_plugin.autoload` and what it imports."""
    run = [sys.executable, "-X", "importtime", "-c", "pass"]
    lines = subprocess.run(run, capture_output=True, text=True, check=True).stderr.splitlines()
    found = [line.split("|") for line in lines if line.endswith("sadr_plugin.autoload")]
    if not found:
        sys.exit("sadr_plugin.autoload is not imported at start-up here; pip install the plugin")
    return int(found[0][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    costs = [microseconds() for _ in range(parser.parse_args().runs)]
    print(f"least {min(costs)} µs, median {statistics.median(costs):.0f} µs of {len(costs)} runs")


if __name__ == "__main__":
    main()
