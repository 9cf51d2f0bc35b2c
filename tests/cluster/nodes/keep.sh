#!/bin/bash
# Keeps one cluster: waits for the one before to end, starts it, and ends it with the end of its own
# input, which is the end of the driver however that comes.
#
#   keep.sh FOLDER LOGS CGROUP NODES
#
# Says "made" when the folder is there to be filled, and starts the cluster at the first line it reads: says
# "started", or in one line why it cannot.
set -uo pipefail
folder=$1 logs=$2 cgroup=$3 nodes=$4
here=$(cd "$(dirname "$0")" && pwd)

# Ends whatever lives in the cgroup, and removes it with the folder.
clean() {
	if [ -e "$cgroup" ]; then
		echo 1 >"$cgroup/cgroup.kill"
		local attempt
		for attempt in $(seq 200); do
			find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
			[ -e "$cgroup" ] || break
			sleep 0.05
		done
	fi
	rm -rf --one-file-system "$folder"
}

mkdir -p "${folder%/*}"
exec 9>"$folder.lock"
flock 9
# One may have been killed together with its keeper.
clean
rm -rf "$logs"

# Takes the place of "made" and "started".
refuse() {
	echo "$*"
	exit 1
}
trap clean EXIT
mkdir -p "$folder"/{control,disks,pki} "$logs" || refuse "the folder $folder cannot be made"
mkdir -p "$cgroup/hub" || refuse "cgroup v2 at ${cgroup%/*} cannot be written"
[ -e "$cgroup/cgroup.kill" ] || refuse "cgroups cannot be killed: the kernel is older than 5.14"
for controller in $(cat "$cgroup/../cgroup.controllers" 2>/dev/null); do
	echo "+$controller" >"$cgroup/../cgroup.subtree_control" 2>/dev/null
	echo "+$controller" >"$cgroup/cgroup.subtree_control" 2>/dev/null
done
echo made

read -r _ || exit 1
# In a chroot, propagation can be changed only once there is a root: see root.sh.
apart=(unshare --mount --propagation unchanged --net --uts --ipc)
why=$("${apart[@]}" "$here/root.sh" "$folder" "$here/able.sh" "$folder" 2>&1 </dev/null 9>&-) || refuse "$why"
echo started
(
	echo 0 >"$cgroup/hub/cgroup.procs"
	exec "${apart[@]}" --pid --fork --kill-child "$here/root.sh" "$folder" \
		"$here/hub.sh" "$folder" "$cgroup" "$nodes" >"$logs/hub.log" 2>&1 </dev/null 9>&-
) &
# That it is killed in the end is no news.
disown
cat >/dev/null
