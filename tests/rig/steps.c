/* Runs a program that stops for its tracer only at system calls that may change something: those that
 * ../support/steps.rs takes for steps. A stop takes much longer than the call.
 *
 *   steps CMD [ARG...]
 *
 * CMD is the only child, which first waits for a line on stdin: time to begin to trace it. Without a
 * tracer these calls fail with ENOSYS. Exits as CMD does, or ends by the same signal.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define STOP BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE)
#define PASS BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define AT(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), STOP
/* Only when its flags, in FIELD, say that it makes or empties a file. */
#define IF_IT_CREATES(call, field) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 4), LOAD(field), \
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT | O_TRUNC, 0, 1), STOP, PASS

static struct sock_filter filter[] = {
	LOAD(nr),
	IF_IT_CREATES(open, args[1]),
	IF_IT_CREATES(openat, args[2]),
	AT(write), AT(writev), AT(pwrite64), AT(pwritev), AT(sendto), AT(sendmsg),
	AT(creat), AT(mkdir), AT(mkdirat), AT(rmdir), AT(unlink), AT(unlinkat),
	AT(rename), AT(renameat), AT(renameat2), AT(link), AT(linkat), AT(symlink), AT(symlinkat),
	AT(truncate), AT(ftruncate), AT(fallocate), AT(copy_file_range), AT(ioctl),
	AT(fsync), AT(fdatasync), AT(setxattr), AT(fsetxattr), AT(chmod), AT(fchmod), AT(fchmodat),
	AT(chown), AT(lchown), AT(fchown), AT(fchownat), AT(flock), AT(execve),
	PASS,
};

int main(int argc, char **argv)
{
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };
	int status;
	char byte = 0;
	pid_t child;

	if (argc < 2) {
		fprintf(stderr, "usage: steps CMD [ARG...]\n");
		return 2;
	}
	child = fork();
	if (child == 0) {
		while (byte != '\n' && read(0, &byte, 1) == 1)
			;
		/* seccomp(2): who is not root may set a filter only together with this. */
		if (geteuid() == 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
			if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
				execvp(argv[1], argv + 1);
	}
	if (child <= 0 || waitpid(child, &status, 0) < 0) {
		perror("steps");
		return 1;
	}
	if (WIFSIGNALED(status))
		raise(WTERMSIG(status));
	return WEXITSTATUS(status);
}
