#!/usr/bin/env bash
# Makes the environment and runs the tests: lint, format, types, then pytest. Further arguments go to pytest;
# `scripts/test.sh --all` adds the slow set.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" test
ruff check .
ruff format --check .
mypy
if [ "${1:-}" = "--all" ]; then
  shift
  exec python -m pytest -m "slow or not slow" "$@"
fi
exec python -m pytest "$@"
