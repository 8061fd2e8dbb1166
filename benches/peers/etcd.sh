#!/usr/bin/env bash
# Three etcd servers on loopback: `etcd.sh start FOLDER`, `etcd.sh rot FOLDER` (kills one, flips a bit of its log, starts it again),
# `etcd.sh stop FOLDER`. Wants etcd and etcdctl 3.4 in the path, as in Debian's etcd-server and etcd-client.
set -euo pipefail
folder=${2:?"usage: $0 start|rot|stop FOLDER"}
cluster=n1=http://127.0.0.1:23801,n2=http://127.0.0.1:23802,n3=http://127.0.0.1:23803
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=127.0.0.1:23791,127.0.0.1:23792,127.0.0.1:23793

server() {
  etcd --name "n$1" --data-dir "$folder/n$1" --initial-cluster $cluster --initial-cluster-state new \
    --listen-client-urls "http://127.0.0.1:2379$1" --advertise-client-urls "http://127.0.0.1:2379$1" \
    --listen-peer-urls "http://127.0.0.1:2380$1" --initial-advertise-peer-urls "http://127.0.0.1:2380$1" \
    --logger zap --log-level error > "$folder/log$1" 2>&1 &
  echo $! > "$folder/pid$1"
}

case $1 in
  start)
    mkdir -p "$folder"
    for i in 1 2 3; do server $i; done
    until etcdctl put ready yes > /dev/null 2>&1; do sleep 0.1; done
    etcdctl endpoint status | grep ', true,' | cut -d, -f1
    ;;
  rot)
    for i in $(seq 40); do etcdctl put "key$i" "value$i" > /dev/null; done
    kill -9 "$(cat "$folder/pid1")"
    log=$(echo "$folder"/n1/member/wal/*.wal | cut -d' ' -f1)
    place=$(grep -obUa value20 "$log" | head -1 | cut -d: -f1)
    printf V | dd of="$log" bs=1 seek="$place" conv=notrunc status=none
    server 1
    wait $! || tail -c 400 "$folder/log1"
    ;;
  stop) for i in 1 2 3; do kill "$(cat "$folder/pid$i")" 2> /dev/null || true; done ;;
esac
