/* Creates a machine with many PCI devices, made of files, for tdx-iommu --sysroot.
 *
 *   tree DIR COUNT     prints the path of each file and link that a scan reads
 *
 * Half of them are root ports, half network cards behind those, each in an IOMMU
 * group of its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;

static void folder(const char *path)
{
	char part[512];

	for (const char *end = path; end; ) {
		end = strchr(end + 1, '/');
		snprintf(part, sizeof part, "%s/%.*s", root, end ? (int)(end - path) : (int)strlen(path), path);
		mkdir(part, 0755);
	}
}

static void put(const char *device, const char *name, const void *bytes, size_t size)
{
	char path[512];
	int file;

	snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/%s", root, device, name);
	file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (file < 0 || write(file, bytes, size) != (ssize_t)size || close(file) < 0)
		err(1, "%s", path);
	puts(path);
}

static void text(const char *device, const char *name, const char *value)
{
	put(device, name, value, strlen(value));
}

static void point(const char *device, const char *name, const char *target)
{
	char path[512];

	snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/%s", root, device, name);
	if (symlink(target, path) < 0)
		err(1, "%s", path);
	puts(path);
}

static void make(const char *place, const char *bdf, const char *class, const char *driver, int group)
{
	unsigned char config[4096] = { 0x86, 0x80, 0x21, 0x15 };
	char path[512], target[512];

	snprintf(path, sizeof path, "sys/devices/%s", place);
	folder(path);
	snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s", root, bdf);
	snprintf(target, sizeof target, "../../../devices/%s", place);
	if (symlink(target, path) < 0)
		err(1, "%s", path);
	puts(path);

	text(bdf, "vendor", "0x8086\n");
	text(bdf, "device", "0x1521\n");
	text(bdf, "subsystem_vendor", "0x8086\n");
	text(bdf, "subsystem_device", "0x0001\n");
	text(bdf, "class", class);
	text(bdf, "revision", "0x01\n");
	text(bdf, "numa_node", "0\n");
	text(bdf, "driver_override", "(null)\n");
	text(bdf, "power_state", "D0\n");
	text(bdf, "reset_method", "flr bus\n");
	text(bdf, "sriov_totalvfs", "8\n");
	text(bdf, "sriov_numvfs", "0\n");
	/* a bridge or not; advanced errors, then a serial number */
	config[0x0e] = strncmp(class, "0x0604", 6) == 0;
	memcpy(config + 0x100, "\x01\x00\x01\x14", 4);
	memcpy(config + 0x140, "\x03\x00\x01\x00\xff\xff\xa7\xb9\xff\x00\x54\x52", 12);
	put(bdf, "config", config, sizeof config);

	snprintf(path, sizeof path, "sys/kernel/iommu_groups/%d", group);
	folder(path);
	snprintf(target, sizeof target, "../../../../kernel/iommu_groups/%d", group);
	point(bdf, "iommu_group", target);
	snprintf(target, sizeof target, "../../../../bus/pci/drivers/%s", driver);
	point(bdf, "driver", target);
	/* what lspci wants, and no scan reads */
	snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/resource", root, bdf);
	fclose(fopen(path, "w"));
}

int main(int argc, char **argv)
{
	char port[32], card[32], place[128];

	if (argc != 3)
		errx(2, "usage: tree DIR COUNT");
	root = argv[1];
	mkdir(root, 0755);
	folder("sys/bus/pci/devices");
	folder("proc/self");
	for (int pair = 0; pair < atoi(argv[2]) / 2; pair++) {
		int domain = pair / 200, index = pair % 200;

		snprintf(port, sizeof port, "%04x:00:%02x.%d", domain, index / 8, index % 8);
		snprintf(card, sizeof card, "%04x:%02x:00.0", domain, index + 1);
		snprintf(place, sizeof place, "pci%04x:00/%s", domain, port);
		make(place, port, "0x060400\n", "pcieport", 2 * pair);
		snprintf(place, sizeof place, "pci%04x:00/%s/%s", domain, port, card);
		make(place, card, "0x020000\n", "igb", 2 * pair + 1);
	}
	return 0;
}
