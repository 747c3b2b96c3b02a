#!/usr/bin/env bash
# What must hold before a change lands. Usage: ./ci.sh [lint|types|unit|flow|all]
#   lint   format and lint
#   types  mypy
#   unit   the tests that start no process, in less than a minute
#   flow   all other tests
#   all    (also without an argument) all of this, the tests under pytest with coverage and
#          under trial, and what is packaged and shipped for operators
# It installs what it needs into .venv and leaves its reports in reports/ (JUnit, coverage XML).
set -euo pipefail
cd "$(dirname "$0")"

WHAT=${1:-all}
VENV=$(realpath -m "${VENV:-.venv}")
REPORTS=reports
MIN_COVERAGE=95

PYTEST=(--strict-config --numprocesses=2 --dist=loadfile)

step() { printf '\n== %s\n' "$*"; }

newest_python() {
    for python in python3.13 python3.12 python3.11; do
        # A shim may name a version that is not there, and a venv needs more than Python itself.
        if "$python" -c 'import ensurepip, sqlite3, ssl' 2>/dev/null; then echo "$python"; return; fi
    done
    echo "Python 3.11, 3.12 or 3.13 is needed" >&2
    return 1
}

install() {
    step "install"
    [ -x "$VENV/bin/python" ] || "${PYTHON:-$(newest_python)}" -m venv "$VENV"
    # The dependencies only: the tests run the checkout itself, the packaging check a wheel.
    "$VENV/bin/python" -m pip install --quiet --require-hashes -r constraints-dev.txt
    rm -rf build "$REPORTS" .coverage .coverage.*
    mkdir -p "$REPORTS"
    # Bytecode is kept: compiling takes a quarter of the start of a daemon or a test runner.
    export PATH="$VENV/bin:$PATH" PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=
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

tests_of() {
    step "$1 tests"
    local files
    files=$(python tests/kinds.py "$1")
    # shellcheck disable=SC2086  # one word each
    python -m pytest "${PYTEST[@]}" $files
}

trial_of() {
    local files jobs=()
    files=$(python tests/kinds.py "$1")
    # Not for unit tests: test_calls_leaks counts Deferreds, and --jobs makes its own.
    if [ "$1" = flow ]; then jobs=(--jobs=2); fi
    # pytest tests each property with all examples.
    export TEST_EXAMPLES=10
    # shellcheck disable=SC2086
    exec python -m twisted.trial "${jobs[@]}" --temp-directory="$PWD/$REPORTS/trial-$1" --reporter=text $files
}

declare -A BESIDE=()
beside() { # NAME COMMAND...: run it in the background, with its output in a file
    "${@:2}" >"$REPORTS/$1.txt" 2>&1 &
    BESIDE[$1]=$!
}
joined() { # NAME: wait for it; when it has failed show its output and fail
    local result=0
    wait "${BESIDE[$1]}" || result=$?
    unset "BESIDE[$1]"
    if [ $result != 0 ]; then cat "$REPORTS/$1.txt"; else tail -n "${2:-1}" "$REPORTS/$1.txt"; fi
    return $result
}
trap '[ ${#BESIDE[@]} = 0 ] || kill "${BESIDE[@]}" 2>/dev/null || true' EXIT

shipped() {
    bash tests/packaging.sh "$REPORTS/packaging"
    if [ "$(id -u)" = 0 ] || [ "${CI:-}" = true ]; then
        bash tests/operations.sh "$REPORTS/operations"
    else
        echo "NOT CHECKED: Debian packages are needed; 'bash tests/operations.sh DIRECTORY' names them"
    fi
}

all() {
    lint
    beside shipped shipped
    types
    step "what is shipped"
    joined shipped 3

    step "tests under pytest with branch coverage, and beside it the same under trial"
    # Tests often wait, so two processes for each take little longer than the CPU time of all.
    beside trial-unit trial_of unit
    beside trial-flow trial_of flow
    coverage run -m pytest "${PYTEST[@]}" --junitxml="$REPORTS/junit.xml" tests
    coverage combine --quiet
    coverage xml --quiet -o "$REPORTS/coverage.xml"
    coverage report --fail-under="$MIN_COVERAGE"
    step "trial"
    joined trial-unit 4
    joined trial-flow 4
    step "no test was skipped, and both ran the same"
    python - "$REPORTS" <<'PY'
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

reports = Path(sys.argv[1])
suites = list(ET.parse(reports / "junit.xml").getroot().iter("testsuite"))
ran, skipped = (sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "skipped"))
trial = "".join(path.read_text() for path in reports.glob("trial-*.txt"))
ran_there = sum(map(int, re.findall(r"(?m)^Ran (\d+) tests", trial)))
print(f"{ran} tests under pytest, {ran_there} under trial, {skipped} skipped")
sys.exit(1 if skipped or "skips=" in trial or not ran == ran_there > 0 else 0)
PY
}

case $WHAT in
    lint | types | all) install; "$WHAT" ;;
    unit | flow) install; tests_of "$WHAT" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
step "all good"
