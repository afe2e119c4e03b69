#!/bin/bash
# Pipelines of the tools, to copy from; each can also be run.
#
#   pipelines.sh            names them
#   pipelines.sh NAME...    runs these
#
# What they work on stands in variables: see below. pipefail is what makes a pipeline
# fail when its first command does.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

IMAGE=${IMAGE:-guest.qcow2}               # a disk image
GUEST=${GUEST:-web1}                      # a domain
SCAN=${SCAN:---vendor 10de --class 03}    # which PCI devices, as tdx-iommu scan takes it
GROUP=${GROUP:-12}                        # an IOMMU group
BDF=${BDF:-0000:17:00.0}                  # a PCI device
CONFIG=${CONFIG:-passthrough.yaml}        # which domains are to have which devices
MODEL=${MODEL:-X}                         # of disks
DISKS=${DISKS:-".available and .model == \"$MODEL\""} # which disks, as jq says it
STOP=${STOP-}                             # flags for tdx-td stop

# An image becomes a base image in the pool, and a guest over it.
image_to_guest() {
	tdx-pool import "$IMAGE" | tdx-td new --base - --name "$GUEST"
}

# So does one that is in the pool already.
volume_to_guest() {
	tdx-pool volumes --json | jq '.items[] | select(.role == "base")' | tdx-td new --base - --name "$GUEST"
}

# GPUs leave the host, and come with a new guest.
devices_to_guest() {
	# shellcheck disable=SC2086  # words
	tdx-iommu scan $SCAN | tdx-gpu bind - | tdx-td new -i "$IMAGE" --devices - --name "$GUEST"
}

# Could a guest have all of this group? Exit 0 is yes, 10 is no.
check_group() {
	tdx-iommu scan | jq ".items[] | select(.iommu_group == $GROUP)" | tdx-iommu check -
}

# What would change if domains had the devices that the file says?
plan_of_devices() {
	tdx-iommu resolve --config "$CONFIG" | tdx-td hostdevs - --dry-run
}

# A device goes to a guest that runs, by libvirt's own tool.
device_to_running_guest() {
	tdx-gpu hostdev "$BDF" --xml | virsh attach-device "$GUEST" /dev/stdin
}

# Disks that nothing uses go to a guest that runs.
disks_to_running_guest() {
	tdx-disk list --json | jq ".items[] | select($DISKS)" | tdx-disk attach "$GUEST" -
}

# All that run are shut down, one after another.
stop_all() {
	# shellcheck disable=SC2086  # words
	tdx-td list --json | jq -r '.items[] | select(.state == "running") | .name' |
		xargs -r -n1 tdx-td stop $STOP
}

# The same words for each domain.
each() {
	for domain in $(tdx-td list --format name); do
		tdx-td show "$domain" --json | jq -c '.items[] | {name, state, ip}'
	done
}

if [ $# = 0 ]; then
	sed -n 's/^\([a-z_]*\)() {$/\1/p' "$0"
fi
for pipeline; do
	"$pipeline"
done
