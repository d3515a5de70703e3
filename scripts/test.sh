#!/usr/bin/env bash
# Makes the environment and runs the tests: lint, format, types, then pytest. Further arguments go to pytest;
# `scripts/test.sh --all` adds the slow set.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" test
ruff check .
ruff format --check .
mypy
# Files stay together on a worker: their tests share compiled programs.
parallel=(-n auto --dist loadfile)
if [ "${1:-}" = "--all" ]; then
  shift
  exec python -m pytest "${parallel[@]}" -m "slow or not slow" "$@"
fi
exec python -m pytest "${parallel[@]}" "$@"
