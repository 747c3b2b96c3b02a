#!/usr/bin/env bash
# Builds the sdist, the wheel from that sdist, installs the wheel into an empty venv and
# runs the daemon from there. Usage: packaging.sh WORK_DIRECTORY
set -euo pipefail
work=$(mkdir -p "$1" && cd "$1" && pwd)
constraints=$PWD/constraints.txt
python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
tar -tzf "$work"/dist/*.tar.gz >"$work/sdist.txt"
for file in etc/middlewared.ini middlewared/database/schema/sqlite/1.sql twisted/plugins/middlewared_plugin.py deploy/Containerfile ci.sh; do
    grep -q "/$file\$" "$work/sdist.txt" || { echo "the sdist lacks $file" >&2; exit 1; }
done

unset PYTHONPATH # only what is installed counts; pip too looks there
python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --require-hashes -r "$constraints"
"$work/venv/bin/pip" install --quiet --no-deps "$work"/dist/*.whl
"$work/venv/bin/pip" check
cd "$work" # away from the checkout
./venv/bin/twistd --help >help.txt # whole: a reader that leaves early would fail the pipe
grep -q '^ *middlewared ' help.txt || { echo "twistd does not list middlewared" >&2; exit 1; }
printf '[http]\nlisten = tcp:0:interface=127.0.0.1\n[metrics]\nlisten =\n' >daemon.ini
./venv/bin/middlewared check --config daemon.ini
./venv/bin/middlewared migrate --config daemon.ini
./venv/bin/twistd -n --pidfile= middlewared --config daemon.ini >daemon.log 2>&1 &
daemon=$!
ready=no
for _ in $(seq 100); do
    if grep -q 'middlewared ready' daemon.log; then ready=yes; break; fi
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
if [ "$ready" = no ]; then cat daemon.log; exit 1; fi
kill -TERM "$daemon"
wait "$daemon"
./venv/bin/middlewared demo >demo.log || { cat demo.log; exit 1; }
echo "wheel installed, twistd runs it, the demo passes"
