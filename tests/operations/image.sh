#!/usr/bin/env bash
# Builds the image of deploy/Containerfile and runs a container of it, as root, with podman. No
# registry of images is asked: the base is made of Debian packages from where this machine gets
# its own. What pip needs is fetched before, so that the build itself has no network.
# Usage: image.sh WORK_DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)

[ "$(id -u)" = 0 ] || { echo "only root can make an image here" >&2; exit 1; }

# crun refuses to run where cgroups of both versions have controllers. Only in our own mount
# namespace is the second one put aside.
[ -n "${OWN_MOUNTS:-}" ] || OWN_MOUNTS=yes exec unshare --mount --propagation private bash "$0" "$work"
umount /sys/fs/cgroup/unified 2>/dev/null || true

# Limits that are given, since podman's own may be more than this process may give.
limits=(--ulimit nofile=4096:4096 --ulimit nproc=256:256)
engine() { podman --root "$work/storage" --runroot "$work/run" "$@"; }
remove() {
    engine rm --all --force >/dev/null 2>&1 || true
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf "$work/storage" "$work/run"
}
trap remove EXIT
remove

echo "-- base"
apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Identifier: Packages' 'Origin: Debian' |
    sort -u >"$work/sources.list"
[ -s "$work/sources.list" ] || { echo "apt knows no Debian: apt-get update" >&2; exit 1; }
# Unpacked only: configuring the packages takes twice as long, and nothing here needs it but users.
mmdebstrap --quiet --variant=extract --include=base-files,base-passwd,bash,coreutils,dash,grep,libc-bin,sed \
    --include=python3,python3-venv,ca-certificates,passwd \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook='for file in passwd group; do cp "$1/usr/share/base-passwd/$file.master" "$1/etc/$file"; done' \
    --format=tar "" - "$work/sources.list" 2>"$work/base.log" |
    engine import --quiet - localhost/base >/dev/null || { cat "$work/base.log"; exit 1; }

echo "-- wheels"
version=$(engine run --rm "${limits[@]}" --network none localhost/base python3 -c \
    'import sys; print("%d.%d" % sys.version_info[:2])')
fetch=(python -m pip download --quiet --no-deps --no-build-isolation --dest "$work/wheels" --python-version "$version")
"${fetch[@]}" --require-hashes -r "$root/constraints.txt"
"${fetch[@]}" 'setuptools>=68' wheel
printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$work/pip.conf"

echo "-- build"
engine build --quiet --layers=false "${limits[@]}" --format docker --network none --build-arg BASE=localhost/base \
    --volume "$work/wheels:/wheels:ro" --volume "$work/pip.conf:/etc/pip.conf:ro" \
    --file "$root/deploy/Containerfile" --tag localhost/middlewared "$root" >"$work/build.log" 2>&1 ||
    { cat "$work/build.log"; exit 1; }

echo "-- run: read-only, without privileges and network"
engine run --detach --name daemon "${limits[@]}" --ulimit nofile=1024:4096 --network none --read-only --read-only-tmpfs=false \
    --cap-drop all --security-opt no-new-privileges localhost/middlewared >/dev/null 2>"$work/run.log"
inside() { engine exec daemon "$@"; }
fail() { echo "$1" >&2; engine logs daemon >&2; exit 1; }
seen() { # TEXT: wait until the log has it
    for _ in $(seq 600); do
        if engine logs daemon 2>&1 | grep -q "$1"; then return; fi
        sleep 0.2
    done
    fail "the log lacks: $1"
}
seen 'middlewared ready'
for _ in $(seq 600); do
    if engine healthcheck run daemon >/dev/null 2>&1; then break; fi
    sleep 0.2
done
inside healthcheck | grep -q '"status": "ok"' || fail "the container is not healthy"
! inside healthcheck 1 >/dev/null || fail "it is healthy where no daemon listens"
inside middlewared check --config /etc/middlewared/middlewared.ini
[ "$(inside id -u):$(inside id -g)" = 10001:10001 ] || fail "it is not its own user"
inside grep -q '^Max open files  *4096  *4096 ' /proc/1/limits || fail "it does not use its limit of open files"
for place in /etc/middlewared /opt/middlewared /tmp; do
    ! inside touch "$place/file" 2>/dev/null || fail "$place is writable"
done
! inside python -c 'import pip' 2>/dev/null || fail "the image has an installer"
inside middlewared calls list --config /etc/middlewared/middlewared.ini >/dev/null

engine kill --signal HUP daemon >/dev/null
seen 'configuration reloaded'
engine stop --time 30 daemon >/dev/null
[ "$(engine inspect --format '{{.State.ExitCode}}' daemon)" = 0 ] || fail "SIGTERM did not end it in order"
seen 'draining, 0 calls wait'
echo "the image was built; its container is healthy, reloads and drains"
