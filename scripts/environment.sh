# Sourced by the other scripts: makes .venv beside the README if it is not there or out of date, and activates it.
# usage: . scripts/environment.sh EXTRAS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

_extras=$1
_python=${PYTHON:-python3}
if ! "$_python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3." >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$_python" -m venv .venv
# shellcheck disable=SC1091
. .venv/bin/activate

_stamp=.venv/installed-$_extras
if ! cmp -s pyproject.toml "$_stamp"; then
  echo "Installing glioma_pde[$_extras] into .venv ..."
  python -m pip install --quiet --disable-pip-version-check --upgrade pip
  python -m pip install --quiet --disable-pip-version-check --editable ".[$_extras]"
  cp pyproject.toml "$_stamp"
fi

# Large arrays on huge pages, where glibc and the kernel offer them: a fifth less time on CPU.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
