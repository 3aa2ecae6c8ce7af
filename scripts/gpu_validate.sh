#!/bin/sh
# Shows on a machine with a CUDA device what only such a device can show; see docs/gpu.md.
#
#     scripts/gpu_validate.sh                                        # with the Python at hand, or that of $PYTHON
#     scripts/gpu_validate.sh --make-environment ../gpu-venv         # makes the environment first
#     scripts/gpu_validate.sh --markdown table.md --json table.json  # all else is for gpu_validate.py; --help lists it
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ "${1:-}" = --make-environment ]; then
    [ $# -ge 2 ] || { echo "--make-environment: give a folder" >&2; exit 64; }
    [ -x "$2/bin/python" ] || "$python" -m venv "$2"
    python=$2/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" -e "$root"
    shift 2
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/scripts/gpu_validate.py" "$@"
