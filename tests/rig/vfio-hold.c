/* Holds a PCI device open through VFIO, as a virtual machine does: its driver cannot
 * be unbound until this ends.
 *
 *   hold GROUP BDF     says `held` and waits for the end of its standard input
 *
 * Source: Linux Documentation/driver-api/vfio.rst.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <err.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int must(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

int main(int argc, char **argv)
{
	char path[64], byte;
	int container, group;

	if (argc != 3)
		errx(2, "usage: hold GROUP BDF");
	snprintf(path, sizeof path, "/dev/vfio/%s", argv[1]);
	container = must(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio");
	group = must(open(path, O_RDWR), path);
	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "VFIO_SET_IOMMU");
	must(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]), argv[2]);
	puts("held");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	return 0;
}
