#!/usr/bin/env bash
# Pins the newest versions of the requirements for each Python version. Needs uv (python -m pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."
for version in 3.11 3.12 3.13; do
  uv pip compile setup.py --extra test --python-version "$version" --python-platform x86_64-manylinux_2_28 \
    --no-header --no-annotate --quiet -o "requirements/py${version/./}.txt"
done
