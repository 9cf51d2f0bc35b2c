#!/bin/bash
# One node, as PID 1 of mount, network, UTS, IPC, PID and cgroup namespaces of its own:
#
#   node.sh FOLDER NAME ADDRESS POD_NETWORK
#
# Its programs are the machine's own, its /etc a copy. What it writes goes to a tmpfs that outlives it, as a
# disk does; /run and the BPF file system begin empty, as after a boot.
set -euo pipefail
folder=$1 name=$2 address=$3 pods=$4
here=$(cd "$(dirname "$0")" && pwd)
logs=$folder/logs
hostname "$name"
mount --make-rprivate /

# No overlay over the machine's root: that may be one already, and containers need the levels that the
# kernel allows; and it would not have what is mounted below.
root=$folder/disks/$name
mkdir -p "$root"
mount --bind "$root" "$root"
cd "$root"
mkdir -p dev proc sys run tmp root old opt/cni/bin opt/node var/lib/{containerd,kubelet} var/{log,tmp}
chmod 1777 tmp var/tmp
ln -sfn /run var/run
[ -e etc ] || cp -a /etc etc
mkdir -p etc/cni/net.d
share() {
	mkdir -p "$root$1"
	mount --rbind "$1" "$root$1"
	mount -o remount,bind,ro "$root$1"
}
for part in /usr /bin /sbin /lib*; do
	if [ -L "$part" ]; then ln -sfn "$(readlink "$part")" "$root$part"; else share "$part"; fi
done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
# Only v2, and the node's own cgroup is its root.
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/netns run/lock
# Under the names that they have outside: this folder, where its links lead, and the scripts.
for outside in "$folder" "$folder"/{logs,images,tools,tools/root,tools/bin/*} "$here"; do
	outside=$(readlink -f "$outside")
	[ -d "$outside" ] || outside=${outside%/*}
	[[ $outside == /usr/* ]] || mountpoint --quiet "$root$outside" && continue
	mkdir -p "$root$outside"
	mount --bind "$outside" "$root$outside"
done
pivot_root . old
cd /
umount -l old
rmdir old
mount --make-rshared /

# The kubelet would set these for the whole machine: let it find them set already.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	file=/run/sysctl/${setting%%=*}
	mkdir -p "${file%/*}"
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${setting%%=*}"
done

# Where each process of the node belongs. The kubelet is alone in a leaf: what it opens may pass to
# probed ports, and nothing else may. Commands from outside have one too.
cgroups=/sys/fs/cgroup
mkdir -p $cgroups/{system,kubelet,commands}
echo 0 >$cgroups/system/cgroup.procs
for controller in $(cat $cgroups/cgroup.controllers); do
	echo "+$controller" >$cgroups/cgroup.subtree_control 2>/dev/null || true
done

export PATH=$folder/tools/bin:$folder/tools/root/usr/bin:$folder/tools/root/usr/sbin:$PATH
export WARREN_REAL_RUNTIME=$folder/tools/root/usr/sbin/runc
cp "$folder/runtime" /opt/node/runc
: >/etc/resolv.conf
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1

# As an installer does: only what is not there. After a boot the files are as they were left.
if [ ! -e /opt/node/installed ]; then
	cp "$folder"/tools/root/usr/lib/cni/* /opt/cni/bin/
	sed "s#POD_NETWORK#$pods#" "$here/bridge.conflist" >/etc/cni/net.d/10-bridge.conflist
fi
containerd --config "$here/containerd.toml" >>"$logs/$name-containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.05; done
if [ ! -e /opt/node/installed ]; then
	for image in "$folder"/images/*.tar; do
		ctr --namespace k8s.io images import "$image" >>"$logs/$name-images.log" 2>&1
	done
	touch /opt/node/installed
fi

(
	echo 0 >$cgroups/kubelet/cgroup.procs
	exec kubelet --config "$here/kubelet.yaml" --kubeconfig "$folder/pki/$name.kubeconfig" \
		--hostname-override "$name" --node-ip "$address" >>"$logs/$name-kubelet.log" 2>&1
) &
# It is not the machine's: limits of connection tracking are not its to set.
kube-proxy --kubeconfig "$folder/pki/proxy.kubeconfig" --hostname-override "$name" \
	--proxy-mode iptables --cluster-cidr 10.244.0.0/16 --conntrack-max-per-core 0 \
	--conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0 \
	>>"$logs/$name-proxy.log" 2>&1 &
wait
