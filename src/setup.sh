# Sourced by run_all.sh and run_tests.sh: sets PYTHON to an interpreter that has what requirements.txt names.
# Arguments: modules needed beyond those. The active environment is used as it is when it has everything; else .venv is made.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

has_all() {  # has_all PYTHON MODULE..
    local python=$1; shift
    "$python" "$project/src/environment.py" >/dev/null 2>&1 || return 1
    local module
    for module in "$@"; do "$python" -c "import $module" >/dev/null 2>&1 || return 1; done
}

find_python() {  # the newest of 3.11 to 3.13, for which torch's wheels exist
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
            echo "$candidate"; return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 with venv is needed, and none is on the PATH (on Debian: apt install python3 python3-venv)" >&2
    return 2
}

set_up() {
    local stamp="$project/.venv/.installed" wanted
    wanted=$(cksum < "$project/requirements.txt")
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        PYTHON="$project/.venv/bin/python"; return
    fi
    local active
    active=$(command -v python3 || command -v python || true)
    if [ -n "$active" ] && has_all "$active" "$@"; then
        PYTHON=$active; return
    fi
    local base
    base=$(find_python) || return 2
    echo "setting up .venv with $("$base" --version): a few minutes and about 6 GB the first time" >&2
    "$base" -m venv "$project/.venv" || return 2
    if ! "$project/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$project/requirements.txt" 2> "$project/.venv/pip.log"; then
        cat "$project/.venv/pip.log" >&2
        echo "the packages could not be installed: check the network and the disk, then run the same command again" >&2
        return 2
    fi
    echo "$wanted" > "$stamp"
    PYTHON="$project/.venv/bin/python"
}
