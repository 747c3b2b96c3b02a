#!/usr/bin/env bash
# Everything that must hold before a change lands; Jenkins runs it too. It installs what
# it needs into .venv and leaves its reports in reports/ (JUnit and coverage XML).
set -euo pipefail
cd "$(dirname "$0")"

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
REPORTS=reports
MIN_COVERAGE=95

step() { printf '\n== %s\n' "$*"; }

step "install"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --upgrade pip
# The dependencies only: the tests run the checkout itself, the packaging check a wheel.
"$VENV/bin/python" -m pip install --quiet --upgrade "setuptools>=68" wheel
"$VENV/bin/python" -m pip install --quiet ".[dev]"
"$VENV/bin/python" -m pip uninstall --quiet --yes middlewared
rm -rf build "$REPORTS" .coverage .coverage.*
mkdir -p "$REPORTS"
export PATH="$PWD/$VENV/bin:$PATH" PYTHONPATH="$PWD" PYTHONDONTWRITEBYTECODE=1

step "format, lint, types"
ruff format --check .
ruff check .
mypy

step "tests under pytest with branch coverage, and beside it the same under trial"
# They mostly wait for servers, so the two together take little longer than one.
trial_done=no
python -m twisted.trial --temp-directory="$PWD/$REPORTS/trial" --reporter=text tests \
    >"$REPORTS/trial.txt" 2>&1 &
trial=$!
trap '[ $trial_done = yes ] || kill $trial 2>/dev/null || true' EXIT
coverage run -m pytest --strict-config --junitxml="$REPORTS/junit.xml" tests
coverage combine --quiet
coverage xml --quiet -o "$REPORTS/coverage.xml"
coverage report --fail-under="$MIN_COVERAGE"

step "no test was skipped"
python - "$REPORTS/junit.xml" <<'PY'
import sys
import xml.etree.ElementTree as ET

suites = list(ET.parse(sys.argv[1]).getroot().iter("testsuite"))
ran, skipped = (sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "skipped"))
print(f"{ran} tests, {skipped} skipped")
sys.exit(1 if skipped or not ran else 0)
PY

step "what trial says"
wait "$trial" || { cat "$REPORTS/trial.txt"; exit 1; }
trial_done=yes
tail -n 4 "$REPORTS/trial.txt"
if grep -q 'skips=' "$REPORTS/trial.txt"; then
    echo "trial skipped tests" >&2
    exit 1
fi

step "packaging: sdist and wheel are complete, an empty venv runs them"
bash tests/packaging.sh "$REPORTS/packaging"

step "operations: unit, balancer, alerts, dashboard, by the programs that read them"
if [ "$(id -u)" = 0 ] || [ "${CI:-}" = true ]; then
    bash tests/operations.sh "$REPORTS/operations"
else
    echo "NOT CHECKED: Debian packages are needed; 'bash tests/operations.sh DIRECTORY' names them"
fi

step "all good"
