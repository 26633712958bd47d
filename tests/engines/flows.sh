#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
# What people do with podman's checkpoints, one function each. Run in scripts/podman-room:
#   flows.sh ROOTFS.tar FLOW          (`criu` is the first in PATH)
set -euo pipefail
rootfs=$1 flow=$2
work=$(mktemp -d /tmp/flow-XXXXXX)
trap 'podman rm -f -a -t 0 >/dev/null 2>&1; rm -rf "$work"' EXIT
cd "$work"
image=localhost/counter
podman image exists $image || podman import -q "$rootfs" $image >/dev/null

pm() { podman "$@" 2>&1 | sed '/Failed to add conmon/d'; return "${PIPESTATUS[0]}"; }
die() {
    echo "FAILED: $*"
    podman ps -a
    for log in $(find /var/lib/containers /run -name dump.log -o -name restore.log 2>/dev/null); do
        echo "--- $log"; grep -E 'Error|Warn' "$log" | tail -20
    done
    exit 1
}
same() { [ "$1" = "$2" ] || die "$3: '$1', not '$2'"; echo "ok: $3"; }
address() { podman inspect "$1" -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'; }
get() { curl -s -m 5 "http://$(address "$1"):8080/"; }
up() { # NAME [option ...]: answered 0, 1 and 2
    local name=$1
    shift
    pm run -d --name "$name" "$@" $image /bin/counterd 8080 >/dev/null
    local i answer=
    for i in $(seq 100); do answer=$(get "$name") && break; sleep 0.05; done
    same "$answer" 0 "$name: a fresh counter"
    get "$name" >/dev/null
    get "$name" >/dev/null
}
checkpoint() { pm container checkpoint "$@" || die "checkpoint $*"; }
restore() { pm container restore "$@" || die "restore $*"; }

same_host() {
    up c1
    checkpoint c1
    restore c1
    same "$(get c1)" 3 "the counter goes on"
    checkpoint c1
    restore c1
    same "$(get c1)" 4 "and again"
}

# The peer's end is closed the moment before: no connection is left to be saved.
just_closed() {
    up c1
    get c1 >/dev/null
    checkpoint c1
    restore c1
    same "$(get c1)" 4 "the counter goes on"
}

replicas() {
    up c1
    checkpoint -l -e chk.tar.gz
    pm rm c1
    restore -i chk.tar.gz
    same "$(get c1)" 3 "restored from the file"
    for i in 1 2 3; do restore -i chk.tar.gz -n hello$i; done
    for i in 1 2 3; do same "$(get hello$i)" 3 "hello$i goes on from the same count"; done
    same "$(get hello2)" 4 "hello2 lives its own life"
    same "$(for i in 1 2 3; do address hello$i; done | sort -u | wc -l)" 3 "three addresses"
}

leave_running() {
    up c1
    checkpoint -R -e chk.tar.gz c1
    same "$(get c1)" 3 "the original goes on"
    restore -i chk.tar.gz -n c2
    same "$(get c2)" 3 "so does the replica"
}

tcp_established() {
    up c1
    local ip
    ip=$(address c1)
    exec 5<>"/dev/tcp/$ip/8080"
    ask() { printf 'GET / HTTP/1.1\r\n\r\n' >&5; local l; for _ in 1 2 3 4; do read -r -t 5 l <&5; done; echo "$l"; }
    same "$(ask)" 3 "a connection"
    if podman container checkpoint c1 >out 2>&1; then die "checkpoint went through without --tcp-established"; fi
    same "$(podman inspect -f '{{.State.Running}}' c1)" true "refused, and the container runs on"
    same "$(ask)" 4 "so does the connection"
    checkpoint --tcp-established c1
    restore --tcp-established c1
    same "$(ask)" 5 "the connection goes on after a restore"
    checkpoint --tcp-established -e tcp.tar.gz c1
    pm rm c1
    restore --tcp-established -i tcp.tar.gz
    same "$(ask)" 6 "and after one from a file"
}

tcp_close() {
    pm container restore --help | grep -q -e --tcp-close || { echo "skip: podman has no --tcp-close"; return; }
    podman info -f '{{.Host.OCIRuntime.Name}}' | grep -q crun || { echo "skip: runc has no --tcp-close"; return; }
    up c1
    exec 5<>"/dev/tcp/$(address c1)/8080"
    checkpoint --tcp-established -e tcp.tar.gz c1
    pm rm c1
    restore --tcp-close -i tcp.tar.gz -n c2
    same "$(get c2)" 3 "restored with --tcp-close"
}

pre_checkpoint() {
    up c1
    checkpoint --pre-checkpoint -e pre.tar.gz c1
    same "$(get c1)" 3 "runs on after a pre-checkpoint"
    checkpoint --with-previous -e full.tar.gz c1
    pm rm c1
    restore -i full.tar.gz --import-previous pre.tar.gz
    same "$(get c1)" 4 "restored from both"
}

print_stats() {
    pm container checkpoint --help | grep -q -e --print-stats || { echo "skip: podman has no --print-stats"; return; }
    up c1
    checkpoint --print-stats c1 >out
    grep -q '"frozen_time": [1-9]' out || die "no frozen time: $(cat out)"
    restore --print-stats c1 >out
    grep -q '"restore_time": [1-9]' out || die "no restore time: $(cat out)"
    same "$(get c1)" 3 "statistics of both"
}

keep() {
    up c1
    checkpoint --keep c1
    local dir
    dir=$(dirname "$(podman inspect -f '{{.OCIConfigPath}}' c1)")
    ls "$dir"/dump.log "$dir"/checkpoint/inventory.img >/dev/null || die "nothing kept in $dir"
    restore --keep c1
    ls "$dir"/restore.log "$dir"/checkpoint/inventory.img >/dev/null || die "nothing kept in $dir"
    same "$(get c1)" 3 "images and logs are kept"
}

file_locks() {
    pm run -d --name l1 $image /bin/counterd lock >/dev/null
    for _ in $(seq 50); do pm logs l1 | grep -q locked && break; sleep 0.05; done
    if podman container checkpoint l1 >out 2>&1; then die "checkpoint went through without --file-locks"; fi
    same "$(podman inspect -f '{{.State.Running}}' l1)" true "refused, and the container runs on"
    checkpoint --file-locks l1
    restore --file-locks l1
    same "$(pm exec l1 /bin/counterd locked)" "flock held posix held" "the locks are held again"
}

compress() {
    up c1
    for c in none gzip zstd; do
        checkpoint -R --compress $c -e chk-$c.tar c1
        restore -i chk-$c.tar -n c-$c
        same "$(get c-$c)" 3 "$c"
    done
}

create_image() {
    up c1
    checkpoint --create-image chkimg -R c1
    restore chkimg -n k1
    same "$(get k1)" 3 "restored from an image"
}

root_fs_changes() {
    mkdir vol
    echo there >vol/file
    pm run -d --name r1 -v "$PWD/vol:/vol:ro" --tmpfs /tmpf $image /bin/sh -c \
        'echo hi >/etc/new; rm /etc/group; echo t >/tmpf/x; echo s >/dev/shm/y; exec counterd 8080' >/dev/null
    for _ in $(seq 100); do get r1 >out && break; sleep 0.05; done
    checkpoint -e l.tar.gz r1
    pm rm r1
    restore -i l.tar.gz -p 18080:8080 -n r2
    same "$(get r2)" 1 "the counter goes on"
    same "$(curl -s -m 5 http://127.0.0.1:18080/)" 2 "on a port published anew"
    same "$(pm exec r2 sh -c 'cat /etc/new /tmpf/x /dev/shm/y /vol/file; ls /etc/group 2>&1 | wc -l' | tr '\n' ' ')" \
        "hi t s there 1 " "files of all mounts are there"
}

ignore_rootfs() {
    pm run -d --name r1 $image /bin/sh -c 'echo hi >/etc/new; exec counterd 8080' >/dev/null
    for _ in $(seq 100); do get r1 >out && break; sleep 0.05; done
    checkpoint --ignore-rootfs -e l.tar.gz r1
    pm rm r1
    restore --ignore-rootfs -i l.tar.gz -n r2
    same "$(get r2)" 1 "the counter goes on"
    same "$(pm exec r2 ls /etc/new 2>&1 | grep -c 'No such')" 1 "without the changes of the root file system"
}

static_ip() {
    podman network create --disable-dns --subnet 10.77.0.0/24 n77 >/dev/null
    up c1 --network n77 --ip 10.77.0.9
    checkpoint -e s.tar.gz c1
    restore --ignore-static-ip -i s.tar.gz -n c2
    same "$(get c2)" 3 "the counter goes on"
    [ "$(address c2)" != 10.77.0.9 ] || die "still the static address"
    restore c1
    same "$(address c1)" 10.77.0.9 "the original keeps its address"
}

terminal() {
    pm run -dt --name t1 $image /bin/sh -c 'i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done' >/dev/null
    sleep 0.5
    checkpoint t1
    local last
    last=$(pm logs t1 | tail -1 | tr -dc 0-9)
    restore t1
    sleep 1
    local now
    now=$(pm logs t1 | tail -1 | tr -dc 0-9)
    [ "$now" -gt "$last" ] && [ "$now" -lt $((last + 60)) ] || die "tick $last, then $now"
    echo "ok: a shell on a terminal went on from tick $last"
}

several() {
    up c1
    up c2
    checkpoint -a
    restore -a
    same "$(get c1)" 3 "c1"
    same "$(get c2)" 3 "c2"
}

# Without podman: a bundle.
bundle() {
    local rt=$1
    mkdir -p bundle/rootfs images work
    tar -xf "$rootfs" -C bundle/rootfs
    (cd bundle && $rt spec)
    python3 - "bundle/config.json" <<'PY'
import json, sys
path = sys.argv[1]
c = json.load(open(path))
c["process"]["terminal"] = False
c["process"]["args"] = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done"]
c["root"]["readonly"] = False
c.get("linux", {}).pop("resources", None)
json.dump(c, open(path, "w"))
PY
    (cd bundle && $rt run -d r1 </dev/null > >(cat >>../log) 2>&1)
    sleep 0.5
    $rt checkpoint --image-path "$PWD/images" --work-path "$PWD/work" r1 || { tail -20 work/dump.log; die "$rt checkpoint"; }
    local last
    last=$(tail -1 log | tr -dc 0-9)
    (cd bundle && $rt restore -d --image-path "$OLDPWD/images" --work-path "$OLDPWD/work" r1 </dev/null > >(cat >>../log) 2>&1) ||
        { tail -20 work/restore.log; die "$rt restore"; }
    sleep 0.7
    local now
    now=$(tail -1 log | tr -dc 0-9)
    $rt list
    $rt delete -f r1
    [ "$now" -gt "$last" ] && [ "$now" -lt $((last + 60)) ] || die "tick $last, then $now"
    echo "ok: $rt alone went on from tick $last"
}
runc_alone() { bundle runc; }
crun_alone() {
    crun --version | grep -q CRIU || { echo "skip: this crun was built without checkpoints"; return; }
    bundle crun
}

$flow
