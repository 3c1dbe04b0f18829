#!/usr/bin/env bash
# Make both environments: .venv (the application's) and .triton (the model server's own, NumPy 1).
#   scripts/setup.sh [--dev]      --dev adds what the tests, linters and benchmarks need
# Installs the system packages that cannot be done without (Debian, Ubuntu). Does nothing when all is in place.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PATH="$PATH:/usr/sbin:/sbin"  # ldconfig; not on the path of an ordinary Debian user
cd "$(dirname "$0")/.."
groups=""; [ "${1:-}" = "--dev" ] && groups="dev"

say() { printf '\033[1m%s\033[0m\n' "$*"; }
apt() {
  local sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
  say "installing system packages: $*"
  $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

with_pip() {
  say "uv could not; trying pip (slower)"
  "$1/bin/python" -m pip install -q --upgrade pip && "$1/bin/python" -m pip install -q "${@:2}"
}

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3 /usr/bin/python3.11 /usr/bin/python3.12; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "No Python 3.11 or 3.12 found. Install one (Debian 12: apt-get install python3.11-venv) or set PYTHON=/path/to/python3.11." >&2; exit 2
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

needed=()
"$python" -c 'import ensurepip' 2>/dev/null || needed+=("python$version-venv")
# Triton's Python stub embeds libpython.
if ! ldconfig -p | grep -q "libpython$version.so.1.0" \
   && [ ! -e "$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')/libpython$version.so.1.0" ]; then
  needed+=("libpython$version")
fi
ldconfig -p | grep -q 'libexpat\.so\.1' || needed+=(libexpat1)
[ ${#needed[@]} -eq 0 ] || apt "${needed[@]}"

stamp() { cat pyproject.toml constraints.txt triton-requirements.txt scripts/setup.sh | sha256sum | cut -c1-16; echo "$version"; }

if [ "$(cat .venv/.stamp"$groups" 2>/dev/null || cat .venv/.stampdev 2>/dev/null)" != "$(stamp)" ]; then
  say "application environment (.venv, Python $version; about 7 GB on disk, 1-5 minutes)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # uv is quicker; pip (with the machine's own index settings) is the fallback.
  .venv/bin/python -m pip install -q "uv==$(sed -n 's/^uv==//p' scripts/bootstrap.txt)"
  install=(-c constraints.txt -e ".[serve,train,vision]"); [ -z "$groups" ] || install+=(--group "$groups")
  .venv/bin/uv pip install -q --system-certs --python .venv/bin/python "${install[@]}" || with_pip .venv "${install[@]}"
  stamp > .venv/.stamp"$groups"
fi

if [ "$(cat .triton/.stamp 2>/dev/null)" != "$(stamp)" ]; then
  say "model server's environment (.triton: Triton, ONNX Runtime, NumPy 1; under a minute)"
  [ -x .triton/bin/python ] || "$python" -m venv .triton
  .venv/bin/uv pip install -q --system-certs --python .triton/bin/python -r triton-requirements.txt || with_pip .triton -r triton-requirements.txt
  stamp > .triton/.stamp
fi
say "environments ready"
