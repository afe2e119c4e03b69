#!/bin/bash
# Pipelines of the tools, to copy or to run.
#
#   pipelines.sh            lists the pipelines
#   pipelines.sh NAME...    runs these pipelines
#
# The variables below select the image, the guest and the devices. With pipefail, a
# pipeline fails when any of its commands fails.
#
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

IMAGE=${IMAGE:-guest.qcow2}               # disk image
GUEST=${GUEST:-web1}                      # domain
SCAN=${SCAN:---vendor 10de --class 03}    # PCI devices: options of tdx-iommu scan
GROUP=${GROUP:-12}                        # IOMMU group
BDF=${BDF:-0000:17:00.0}                  # PCI device
CONFIG=${CONFIG:-passthrough.yaml}        # devices of each domain
MODEL=${MODEL:-X}                         # disk model
DISKS=${DISKS:-".available and .model == \"$MODEL\""} # disks: a condition of jq
STOP=${STOP-}                             # options of tdx-td stop

# Imports an image and creates a guest over it.
image_to_guest() {
	tdx-pool import "$IMAGE" | tdx-td new --base - --name "$GUEST"
}

# Creates a guest over the base image that is in the pool.
volume_to_guest() {
	tdx-pool volumes --json | jq '.items[] | select(.role == "base")' | tdx-td new --base - --name "$GUEST"
}

# Binds GPUs to VFIO and creates a guest with them.
devices_to_guest() {
	# shellcheck disable=SC2086  # several options
	tdx-iommu scan $SCAN | tdx-gpu bind - | tdx-td new -i "$IMAGE" --devices - --name "$GUEST"
}

# Checks whether a guest can have all devices of an IOMMU group: exit 0 for yes, 10 for no.
check_group() {
	tdx-iommu scan | jq ".items[] | select(.iommu_group == $GROUP)" | tdx-iommu check -
}

# Shows what would change if each domain had the devices that the file requests.
plan_of_devices() {
	tdx-iommu resolve --config "$CONFIG" | tdx-td hostdevs - --dry-run
}

# Attaches a device to a running guest with virsh.
device_to_running_guest() {
	tdx-gpu hostdev "$BDF" --xml | virsh attach-device "$GUEST" /dev/stdin
}

# Attaches disks that nothing uses to a running guest.
disks_to_running_guest() {
	tdx-disk list --json | jq ".items[] | select($DISKS)" | tdx-disk attach "$GUEST" -
}

# Shuts all running guests down, one after another.
stop_all() {
	# shellcheck disable=SC2086  # several options
	tdx-td list --json | jq -r '.items[] | select(.state == "running") | .name' |
		xargs -r -n1 tdx-td stop $STOP
}

# Prints name, state and address of each domain.
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
