#!/usr/bin/env bash
# What must hold before a change lands. Usage: ./ci.sh [lint|types|unit|flow|trial|all]
#   lint   format and lint
#   types  mypy
#   unit   the tests that start no process, in less than a minute
#   flow   all other tests
#   trial  all tests under trial
#   all    (also without an argument) format, lint and types; all tests with coverage, half of the
#          files under pytest and the others under trial; what is packaged, and what is shipped
# It installs what it needs into .venv and leaves its reports in reports/ (JUnit, coverage XML).
set -euo pipefail
cd "$(dirname "$0")"
. tests/install.sh

WHAT=${1:-all}
VENV=$(realpath -m "${VENV:-.venv}")
REPORTS=reports
MIN_COVERAGE=95
COVERAGE="" # the arguments that make Python measure it

step() { printf '\n== %s\n' "$*"; }

newest_python() {
    for python in python3.13 python3.12 python3.11; do
        # A shim may name a version that is not there, and a venv needs more than Python itself.
        if "$python" -c 'import ensurepip, sqlite3, ssl' 2>/dev/null; then echo "$python"; return; fi
    done
    echo "Python 3.11, 3.12 or 3.13 is needed" >&2
    return 1
}

prepare() {
    step "install"
    [ -x "$VENV/bin/python" ] || "${PYTHON:-$(newest_python)}" -m venv "$VENV"
    # Bytecode is kept: compiling takes a quarter of the start of a daemon or a test runner.
    export PATH="$VENV/bin:$PATH" PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=
    python -m pip install --quiet --no-compile --require-hashes \
        -r <(awk '/^[^ ]/ { shown = /^uv==/ } shown' constraints-dev.txt)
    # The dependencies only: the tests run the checkout itself, the packaging check a wheel.
    install "$VENV/bin/python" --require-hashes -r constraints-dev.txt
    rm -rf build "$REPORTS" .coverage .coverage.*
    mkdir -p "$REPORTS"
}

lint() {
    step "format, lint"
    ruff format --check .
    ruff check .
}

types() {
    step "types"
    mypy
}

unit() { pytest_of unit; }

flow() { pytest_of flow; }

trial() {
    trial_of unit
    trial_of flow --jobs=2
}

pytest_of() { # KIND...
    step "tests under pytest: $*"
    local files
    mapfile -t files < <(python tests/kinds.py "$@")
    # Three processes, since tests wait for half of their time.
    # shellcheck disable=SC2086  # several arguments
    python $COVERAGE -m pytest --strict-config --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
        --junitxml="$REPORTS/junit.xml" "${files[@]}"
}

trial_of() { # KIND OPTION...; no --jobs for unit tests: test_calls_leaks counts Deferreds, and it makes some
    step "tests under trial: $1"
    local files
    mapfile -t files < <(python tests/kinds.py "$1")
    # shellcheck disable=SC2086  # several arguments
    python $COVERAGE -m twisted.trial "${@:2}" --temp-directory="$PWD/$REPORTS/trial-${1%:*}" --reporter=text "${files[@]}"
}

set -m # a job is a process group, which can be ended as a whole
declare -A JOBS=()
beside() { # NICENESS NAME COMMAND...: run it in the background, with its output in a file
    { renice -n "$1" -p $BASHPID >/dev/null && "${@:3}"; } >"$REPORTS/$2.txt" 2>&1 &
    JOBS[$2]=$!
}
joined() { # NAME LINES: wait for a job and show its last lines; if it has failed, all of them
    local result=0
    step "$1"
    wait "${JOBS[$1]}" || result=$?
    unset "JOBS[$1]"
    if [ $result != 0 ]; then cat "$REPORTS/$1.txt"; else tail -n "$2" "$REPORTS/$1.txt"; fi
    return $result
}
trap 'for job in "${JOBS[@]}"; do kill -- "-$job" 2>/dev/null || true; done' EXIT

packaging() { bash tests/packaging.sh "$REPORTS/packaging"; }
operations() { bash tests/operations.sh "$REPORTS/operations" "$1"; }
patient() { # both build a sdist, so not at the same time
    packaging
    operations patient
}

all() {
    lint
    # These take what the calls of "live" leave of the cores: its phones mostly wait.
    beside 10 types mypy
    if [ "$(id -u)" = 0 ] || [ "${CI:-}" = true ]; then
        operations packages
        beside 5 shipped patient
        step "what is shipped: with HAProxy, Kamailio and Chromium"
        operations live
    else
        echo "NOT CHECKED: what needs Debian packages; 'bash tests/operations.sh DIRECTORY' names them"
        beside 5 shipped packaging
    fi

    COVERAGE="-m coverage run"
    beside 0 trial-unit trial_of unit:2/2
    beside 0 trial-flow trial_of flow:2/2 --jobs=3
    pytest_of flow:1/2 unit:1/2
    joined trial-unit 4
    joined trial-flow 4
    joined shipped 4
    joined types 1

    step "coverage"
    coverage combine --quiet
    beside 0 coverage-xml coverage xml --quiet -o "$REPORTS/coverage.xml"
    coverage report --fail-under="$MIN_COVERAGE"
    joined coverage-xml 1
    step "no test was skipped"
    python - "$REPORTS" <<'PY'
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

reports = Path(sys.argv[1])
suites = list(ET.parse(reports / "junit.xml").getroot().iter("testsuite"))
ran, skipped = (sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "skipped"))
trial = "".join(path.read_text() for path in (reports / "trial-unit.txt", reports / "trial-flow.txt"))
ran_there = sum(map(int, re.findall(r"(?m)^Ran (\d+) tests", trial)))
print(f"{ran} tests under pytest, {ran_there} under trial, {skipped} skipped")
sys.exit(0 if ran and ran_there and not skipped and "skips=" not in trial else 1)
PY
}

case $WHAT in
    lint | types | unit | flow | trial | all) prepare; "$WHAT" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
step "all good"
