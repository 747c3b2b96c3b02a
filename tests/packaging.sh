#!/usr/bin/env bash
# Builds what a release has: the sdist, the wheel from that sdist, and their SBOM. Installs the wheel
# into an empty venv and runs the daemon from there. Usage: packaging.sh WORK_DIRECTORY
set -euo pipefail
. tests/install.sh
work=$(mkdir -p "$1" && cd "$1" && pwd)
constraints=$PWD/constraints.txt
python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
tar -tzf "$work"/dist/*.tar.gz >"$work/sdist.txt"
for file in etc/middlewared.ini middlewared/database/schema/sqlite/1.sql twisted/plugins/middlewared_plugin.py ci.sh \
    etc/man/middlewared.1 etc/completion/_middlewared release/sbom.py docs/install.md deploy/Containerfile; do
    grep -q "/$file\$" "$work/sdist.txt" || { echo "the sdist lacks $file" >&2; exit 1; }
done

python release/commands.py "$work/commands"
for folder in man completion; do
    diff -r "etc/$folder" "$work/commands/$folder" || { echo "run: python release/commands.py" >&2; exit 1; }
done

sbom=$PWD/release/sbom.py
unset PYTHONPATH # only what is installed counts; pip too looks there
python -m venv --without-pip "$work/venv" # the SBOM is of what is in it
install "$work/venv/bin/python" --require-hashes -r "$constraints"
# pip notes the hash of the file for the SBOM, uv does not.
python -m pip --python "$work/venv/bin/python" install --quiet --no-deps "$work"/dist/*.whl
python -m pip --python "$work/venv/bin/python" check
wheel=$(basename "$work"/dist/*.whl)
python "$sbom" "$work/venv" "$work/dist/${wheel%%-py3*}.cdx.json"
(cd "$work/dist" && sha256sum middlewared-* >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
for file in man/man1/middlewared.1 bash-completion/completions/middlewared \
    zsh/site-functions/_middlewared fish/vendor_completions.d/middlewared.fish; do
    [ -s "$work/venv/share/$file" ] || { echo "the wheel does not install share/$file" >&2; exit 1; }
done
cd "$work" # away from the checkout
./venv/bin/twistd --help >help.txt # whole: a reader that leaves early would fail the pipe
grep -q '^ *middlewared ' help.txt || { echo "twistd does not list middlewared" >&2; exit 1; }
printf '[http]\nlisten = tcp:0:interface=127.0.0.1\n[metrics]\nlisten =\n' >daemon.ini
./venv/bin/middlewared check --config daemon.ini
./venv/bin/middlewared migrate --config daemon.ini
./venv/bin/twistd -n --pidfile= middlewared --config daemon.ini >daemon.log 2>&1 &
daemon=$!
ready=no
for _ in $(seq 1200); do
    if grep -q 'middlewared ready' daemon.log; then ready=yes; break; fi
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
if [ "$ready" = no ]; then cat daemon.log; exit 1; fi
kill -TERM "$daemon"
wait "$daemon"
./venv/bin/middlewared demo >demo.log || { cat demo.log; exit 1; }
echo "wheel installed, twistd runs it, the demo passes"
