"""``python -m benchmarks [--smoke]``: every benchmark, one after the other."""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run all benchmarks; the exit status is that of the worst."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    flags = ["--smoke"] if parser.parse_args().smoke else []
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem[0] != "_")
    worst = 0
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
