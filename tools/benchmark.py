"""Runs a benchmark of tools/benchmarks: python tools/benchmark.py NAME [options]. NAME --help describes it."""

import ast
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    files = {path.stem: path for path in sorted((ROOT / "tools" / "benchmarks").glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in files:
        print(__doc__)
        for known, path in files.items():
            print(f"  {known:10} {(ast.get_docstring(ast.parse(path.read_text())) or known).splitlines()[0]}")
        if name not in ("", "-h", "--help"):
            print(f"error: {name!r} is not a benchmark; use one of {', '.join(files)}", file=sys.stderr)
            sys.exit(2)
        return
    sys.path[:0] = [str(ROOT), str(files[name].parent)]
    sys.argv = [str(files[name]), *sys.argv[2:]]
    runpy.run_path(str(files[name]), run_name="__main__")


if __name__ == "__main__":
    main()
