# Sourced by the other scripts: makes .venv beside the README if it is not there, broken or out of date, and activates it.
# usage: . scripts/environment.sh EXTRAS; leaves the repository in $root and stays there, $caller is where it was called.
set -euo pipefail
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

_extras=$1
_new_enough() { "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; }
_python=
for _candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if _new_enough "$_candidate"; then _python=$_candidate; break; fi
done
if [ -z "$_python" ]; then
  echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3." >&2
  exit 1
fi
# an installation that was broken off leaves an environment without pip
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  "$_python" -m venv .venv
fi
# shellcheck disable=SC1091
. .venv/bin/activate

# what an installation is made from: its description, and the sources of its native kernels
_stamp=.venv/installed-$_extras
_source() { cat pyproject.toml glioma_pde/numerics/kernels/{CMakeLists.txt,*.cpp,*.h}; }
if ! _source | cmp -s - "$_stamp"; then
  echo "Installing glioma_pde[$_extras] into .venv ..."
  python -m pip install --quiet --disable-pip-version-check --upgrade pip
  python -m pip install --quiet --disable-pip-version-check --editable ".[$_extras]"
  python -c 'from glioma_pde.numerics import kernels; print("Kernels:", kernels.describe())'
  _source >"$_stamp"
fi

# Large arrays on huge pages, where glibc and the kernel offer them: a fifth less time on CPU.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
