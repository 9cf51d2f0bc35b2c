#!/bin/bash
# Tries what nodes need of this machine, in namespaces like theirs; what is missing is said in one line:
#
#   able.sh FOLDER
set -uo pipefail
place=$1/disks

try() {
	local what=$1 said
	shift
	said=$("$@" 2>&1) && return
	echo "nodes cannot run here: $what: $said" | tr '\n' ' '
	exit 1
}
try "no tmpfs" mount -t tmpfs tmpfs "$place"
mkdir "$place"/{lower,upper,work,root,cgroup,bpf}
try "no overlayfs on tmpfs, which containers are made of" mount -t overlay \
	-o "lowerdir=$place/lower,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
try "no cgroup v2" mount -t cgroup2 cgroup2 "$place/cgroup"
try "no BPF file system" mount -t bpf bpf "$place/bpf"
try "no bridges" ip link add br0 type bridge
try "no pairs of interfaces" ip link add one type veth peer name other
try "no netfilter for kube-proxy" iptables -t nat -L -n
