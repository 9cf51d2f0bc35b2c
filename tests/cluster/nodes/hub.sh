#!/bin/bash
# The cluster's control plane, the wire between its nodes, and the lives of the nodes:
#
#   hub.sh FOLDER CGROUP NODES
#
# It is PID 1 of a PID namespace, so that its end is the end of everything. FOLDER is the cluster's
# (see tests/support/cluster/folder.rs), CGROUP the cgroup v2 folder that all of it lives in.
set -euo pipefail
folder=$1 cgroup=$2 nodes=$3
here=$(cd "$(dirname "$0")" && pwd)
tools=$folder/tools logs=$folder/logs control=$folder/control pki=$folder/pki
api=172.30.0.1
export PATH=$tools/bin:$PATH

# Of its own PID namespace.
mount -t proc proc /proc
# What is written here is gone at the end, and is never slower than memory.
mount -t tmpfs -o mode=755 tmpfs "$folder/disks"

ip link set lo up
ip link add br0 type bridge
ip address add "$api/24" dev br0
ip link set br0 up
sysctl -qw net.ipv4.ip_forward=1

# Nothing outlives the cluster, so nothing waits for a disk.
etcd --data-dir "$folder/disks/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
	--advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \
	>"$logs/etcd.log" 2>&1 &
# Starts the API server, and starts it again once the driver does not keep it off any more.
serve() {
	local server
	while true; do
		while [ -e "$control/api.off" ]; do sleep 0.05; done
		# Routed to endpoints: webhooks are behind Services, and there is no kube-proxy here.
		kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address=$api --secure-port=6443 \
			--tls-cert-file="$pki/server.crt" --tls-private-key-file="$pki/server.key" --cert-dir="$pki" \
			--service-account-issuer=https://kubernetes.default.svc \
			--service-account-key-file="$pki/accounts.pub" \
			--service-account-signing-key-file="$pki/accounts.key" \
			--service-cluster-ip-range=10.96.0.0/16 --token-auth-file="$pki/tokens.csv" \
			--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
			--allow-privileged=true --enable-aggregator-routing=true \
			--kubelet-preferred-address-types=InternalIP >>"$logs/kube-apiserver.log" 2>&1 &
		server=$!
		touch "$control/api.up"
		while kill -0 "$server" 2>/dev/null && [ ! -e "$control/api.off" ]; do sleep 0.1; done
		kill -KILL "$server" 2>/dev/null || true
		wait "$server" || true
		rm -f "$control/api.up"
	done
}
serve &
until kubectl --kubeconfig "$pki/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1; do
	sleep 0.2
done
kube-controller-manager --kubeconfig "$pki/admin.kubeconfig" --leader-elect=false \
	--service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/authority.crt" \
	--use-service-account-credentials=true --authentication-skip-lookup \
	--node-monitor-grace-period=16s >"$logs/kube-controller-manager.log" 2>&1 &
kube-scheduler --kubeconfig "$pki/admin.kubeconfig" --leader-elect=false \
	--authentication-skip-lookup >"$logs/kube-scheduler.log" 2>&1 &

# Starts a node again whenever it has ended, unless the driver keeps it off. Its disk stays.
live() {
	local name=$1 number=$2 address=172.30.0.$((10 + $2)) pods=10.244.$2.0/24
	while true; do
		while [ -e "$control/$name.off" ]; do sleep 0.05; done
		mkdir -p "$cgroup/$name"
		(
			echo 0 >"$cgroup/$name/cgroup.procs"
			exec unshare --mount --net --uts --ipc --cgroup --pid --fork --kill-child \
				"$here/node.sh" "$folder" "$name" "$address" "$pods" >>"$logs/$name.log" 2>&1
		) &
		local node=$!
		# Once it has a child, its namespaces are made, and the child is in the node's cgroup.
		until pgrep --parent "$node" >/dev/null; do sleep 0.02; done
		# Outside the node's part of the tree, whose root must stay without processes.
		echo "$node" >"$cgroup/hub/cgroup.procs"
		ip link add "veth$number" type veth peer name eth0 netns "$node"
		ip link set "veth$number" master br0 up
		nsenter --target "$node" --net ip address add "$address/24" dev eth0
		nsenter --target "$node" --net ip link set eth0 up
		nsenter --target "$node" --net ip route add default via $api
		local other
		for other in $(seq "$nodes"); do
			[ "$other" = "$number" ] && continue
			nsenter --target "$node" --net ip route add "10.244.$other.0/24" via "172.30.0.$((10 + other))"
		done
		ip route replace "$pods" via "$address"
		touch "$control/$name.up"
		wait "$node" || true
		rm -f "$control/$name.up"
		ip link delete "veth$number" 2>/dev/null || true
		# Its processes end with its PID namespace, a little later than its first one.
		until find "$cgroup/$name" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.05; done
	done
}
for number in $(seq "$nodes"); do live "node$number" "$number" & done
wait
