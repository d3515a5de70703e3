#!/usr/bin/env bash
# Makes the environment and runs the tests: lint, format, types, then pytest. Further arguments go to pytest;
# `scripts/test.sh --long` runs instead the tests that take seconds each, `scripts/test.sh --all` every test there is.
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" test
ruff check .
ruff format --check .
mypy
# Files stay together on a worker: their tests share compiled programs. In their order: else the longest come last.
parallel=(-n auto --dist loadfile --no-loadscope-reorder)
case "${1:-}" in
  --long) shift; set -- -m "long and not slow" "$@" ;;
  --all) shift; set -- -m "slow or not slow" "$@" ;;
esac
exec python -m pytest "${parallel[@]}" "$@"
