/*
 * Makes QEMU answer for AMD SEV hardware that is not there; preloaded into all of a TDX
 * rig by ./sev-host.
 *
 * A command of QEMU's monitor whose name is that of a file in /run/rig/host/sev is
 * answered with what stands in that file, one line of JSON, in place of QEMU's own
 * answer. All other answers are QEMU's. libvirt, which counts the processor's keys by
 * itself, finds 504 for guests and 5 for those with encrypted registers. That is where
 * the test's stand-in ends: libvirt, and all that asks libvirt, are the real ones.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const commands[] = {
	"query-sev-capabilities", "query-sev-launch-measure", "query-sev",
};

/* The command that was asked last and is still to be answered, and its id. */
static const char *asked;
static char id[64];

static void listen_for(const char *text, size_t size)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		char quoted[64];
		const char *found;
		size_t length;

		snprintf(quoted, sizeof(quoted), "\"execute\":\"%s\"", commands[i]);
		if (!memmem(text, size, quoted, strlen(quoted)))
			continue;
		found = memmem(text, size, "\"id\":\"", 6);
		if (!found)
			return;
		found += 6;
		length = strcspn(found, "\"");
		if (length < sizeof(id)) {
			memcpy(id, found, length);
			id[length] = 0;
			asked = commands[i];
		}
		return;
	}
}

/* QEMU reads its monitor byte by byte. */
static void gather(const char *text, size_t size)
{
	static char line[4096];
	static size_t length;
	size_t i;

	for (i = 0; i < size; i++) {
		if (text[i] == '\n' || length == sizeof(line)) {
			length = 0;
			continue;
		}
		line[length++] = text[i];
		if (text[i] == '}')
			listen_for(line, length);
	}
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, struct msghdr *, int);
	ssize_t size;

	if (!next)
		next = dlsym(RTLD_NEXT, "recvmsg");
	size = next(fd, message, flags);
	if (size > 0 && message->msg_iovlen == 1)
		gather(message->msg_iov[0].iov_base, size);
	return size;
}

/* The line that is to be sent; 0 when QEMU's own is. */
static size_t answer(char *line, size_t room)
{
	char path[128], value[8192];
	int fd, kept = errno;
	ssize_t size;

	snprintf(path, sizeof(path), "/run/rig/host/sev/%s", asked);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		errno = kept;
		return 0;
	}
	size = read(fd, value, sizeof(value) - 1);
	close(fd);
	errno = kept;
	if (size <= 0)
		return 0;
	value[size] = 0;
	value[strcspn(value, "\n")] = 0;
	return snprintf(line, room, "{\"return\": %s, \"id\": \"%s\"}\r\n", value, id);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, const struct msghdr *, int);
	char line[16384], quoted[80];
	struct iovec part = message->msg_iov[0];
	size_t size, sent = 0;

	if (!next)
		next = dlsym(RTLD_NEXT, "sendmsg");
	snprintf(quoted, sizeof(quoted), "\"id\": \"%s\"", id);
	if (!asked || message->msg_iovlen != 1 ||
	    !memmem(part.iov_base, part.iov_len, quoted, strlen(quoted)))
		return next(fd, message, flags);
	size = answer(line, sizeof(line));
	asked = NULL;
	if (!size)
		return next(fd, message, flags);
	while (sent < size) {
		ssize_t more = send(fd, line + sent, size - sent, MSG_NOSIGNAL);

		if (more < 0 && errno != EINTR && errno != EAGAIN)
			return -1;
		if (more > 0)
			sent += more;
	}
	return part.iov_len;
}

/* libvirt's own; CPUID Fn8000_001F has the keys in ECX, the least of SEV alone in EDX. */
void virHostCPUX86GetCPUID(uint32_t leaf, uint32_t extended, uint32_t *eax, uint32_t *ebx,
			   uint32_t *ecx, uint32_t *edx);

void virHostCPUX86GetCPUID(uint32_t leaf, uint32_t extended, uint32_t *eax, uint32_t *ebx,
			   uint32_t *ecx, uint32_t *edx)
{
	static void (*next)(uint32_t, uint32_t, uint32_t *, uint32_t *, uint32_t *, uint32_t *);

	if (!next)
		next = dlsym(RTLD_NEXT, "virHostCPUX86GetCPUID");
	next(leaf, extended, eax, ebx, ecx, edx);
	if (leaf == 0x8000001f) {
		*ecx = 509;
		*edx = 6;
	}
}
