/*
 * Makes KVM say that it can run trust domains; preloaded into all of a TDX rig.
 *
 * KVM_CHECK_EXTENSION of KVM_CAP_VM_TYPES gains the bit of KVM_X86_TDX_VM while
 * kvm_intel's parameter tdx is on, as the rig shows it. On a machine without KVM,
 * where the rig's /dev/kvm is a null device, KVM also knows how many processors a
 * guest can have, and QEMU says that it uses KVM when libvirt asks it. While the file
 * /run/rig/host/no-tdx-guest is there, QEMU's object tdx-guest goes by another name.
 * Nothing else changes. Code that makes system calls without the C library sees what
 * the kernel says.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#define TDX_VM_TYPE 5

static int kvm_is_null_device(void)
{
	int kept = errno;
	struct stat status;
	int is = stat("/dev/kvm", &status) == 0 && status.st_rdev == makedev(1, 3);

	errno = kept;
	return is;
}

static int tdx_is_on(void)
{
	int kept = errno;
	char value = 'N';
	int fd = open("/sys/module/kvm_intel/parameters/tdx", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &value, 1) != 1)
			value = 'N';
		close(fd);
	}
	errno = kept;
	return value == 'Y';
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	unsigned long argument;
	int result;

	va_start(arguments, request);
	argument = va_arg(arguments, unsigned long);
	va_end(arguments);

	result = (int)syscall(SYS_ioctl, fd, request, argument);
	if (request == KVM_CHECK_EXTENSION && argument == KVM_CAP_VM_TYPES && tdx_is_on())
		result = (result < 0 ? 0 : result) | 1 << TDX_VM_TYPE;
	if (request == KVM_CHECK_EXTENSION && argument == KVM_CAP_MAX_VCPUS && kvm_is_null_device())
		result = 1024;
	return result;
}

static int qemu_is_older(void)
{
	int kept = errno;
	int is = access("/run/rig/host/no-tdx-guest", F_OK) == 0;

	errno = kept;
	return is;
}

/*
 * QEMU's answers to query-kvm and query-accelerators, and to qom-list-types, with
 * others of the same length, and when those are given.
 */
static const struct {
	const char *real, *other;
	int (*when)(void);
} answers[] = {
	{ "{\"enabled\": false, \"present\": true}",
	  "{\"enabled\": true,  \"present\": true}", kvm_is_null_device },
	{ "{\"enabled\": \"tcg\", \"present\": [\"kvm\"",
	  "{\"enabled\": \"kvm\", \"present\": [\"kvm\"", kvm_is_null_device },
	{ "\"tdx-guest\"", "\"tdx-later\"", qemu_is_older },
};

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	size_t part, i;

	for (part = 0; part < message->msg_iovlen; part++) {
		const struct iovec *text = &message->msg_iov[part];

		for (i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
			const char *real = answers[i].real;
			char *found = memmem(text->iov_base, text->iov_len, real, strlen(real));

			if (found && answers[i].when())
				memcpy(found, answers[i].other, strlen(real));
		}
	}
	return syscall(SYS_sendmsg, fd, message, flags);
}
