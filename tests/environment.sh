#!/usr/bin/env bash
# Makes the Python environment at $1 from tests/requirements.txt (hash-locked), whole or not at all.
set -euo pipefail
venv=$1
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
[ -x "$venv/bin/python" ] && exit 0

python=${PYTHON3:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Python 3.11 or newer is needed ($python is older); set PYTHON3=/path/to/python3" >&2; exit 1; }
echo "Python environment: building $(basename "$venv") (about 7 GB with torch; once)" >&2
rm -rf "$venv.new"
if ! "$python" -m venv "$venv.new" 2>/dev/null; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        { echo "python3-venv is missing: install it (Debian/Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
    apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null
    rm -rf "$venv.new" && "$python" -m venv "$venv.new"
fi
"$venv.new/bin/pip" install -q --disable-pip-version-check "$(grep -oE '^uv==[0-9.]+' "$root/tests/requirements.txt")"
VIRTUAL_ENV="$venv.new" "$venv.new/bin/uv" pip install -q --require-hashes --compile-bytecode -r "$root/tests/requirements.txt"
# The scripts in bin/ name the path they were made for: give them the final one, then move the whole in one step.
grep -rlI "$venv.new" "$venv.new/bin" "$venv.new/pyvenv.cfg" | xargs sed -i "s|$venv.new|$venv|g"
mv "$venv.new" "$venv"
