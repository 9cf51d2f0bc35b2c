#!/bin/bash
# Gives a new mount namespace a root of its own, which is this process's root, and runs a command there:
#
#   root.sh FOLDER COMMAND...
#
# The tests may run in a chroot whose root is a plain folder. Mounts could not be made private there, and
# pivot_root(2) refuses. And who enters a mount namespace, as nsenter and a container runtime's exec do, gets
# the namespace's root: that must not be something outside of the chroot. So what is outside leaves the
# namespace here. No file of it is opened: the only program that runs meanwhile is static and of ours.
set -euo pipefail
folder=$1
mkdir -p "$folder"/{root,outside}
busybox=.$(readlink -f "$folder/tools/root/bin/busybox")
# Entering the own mount namespace changes the root to that of the namespace; the working folder stays.
exec nsenter --mount=/proc/self/ns/mnt --wd=/ "$busybox" sh -euc '
	busybox=$1 folder=$2
	shift
	"$busybox" mount --make-rprivate /
	"$busybox" mount --rbind . ".$folder/root"
	cd ".$folder/root"
	"$busybox" pivot_root . ".$folder/outside"
	cd /
	"$busybox" umount -l "$folder/outside"
	shift
	exec "$@"
' root "$busybox" "$@"
