/* Process 1 of the kernel rig once its devices are there: runs the commands that ./kernel-run leaves
 * in /run/rig, several at once, and reaps orphans. One small program, since every process that is
 * started costs a tenth of a second where the machine is emulated.
 *
 * A line on /dev/ttyS1 names a folder in /run/rig with the files argv, words that each end with a
 * zero byte, as of env -i, and stdin. The command runs in /tmp. It leaves stdout, stderr and, once
 * those are whole, status.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* All of a file, with a zero byte behind it. */
static char *content(const char *path, size_t *size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	char *text = NULL;
	size_t space = 0;
	ssize_t got = 1;

	if (file < 0)
		err(1, "%s", path);
	for (*size = 0; got > 0; *size += got) {
		if (space < *size + 65536)
			text = realloc(text, 1 + (space = *size + 65536));
		if (!text || (got = read(file, text + *size, space - *size)) < 0)
			err(1, "%s", path);
	}
	text[*size] = 0;
	close(file);
	return text;
}

static void leave(const char *path, int from)
{
	static char buffer[1 << 18];
	int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	off_t at = 0;
	ssize_t got;

	while ((got = pread(from, buffer, sizeof(buffer), at)) > 0) {
		for (ssize_t put = 0, done; put < got; put += done)
			if ((done = write(to, buffer + put, got - put)) < 0)
				err(1, "%s", path);
		at += got;
	}
	if (got < 0 || close(to) < 0)
		err(1, "%s", path);
}

/* Becomes the command: variables first, as env(1) has them. */
static void become(char **words)
{
	char **variables = words, **program = words;

	while (*program && strchr(*program, '='))
		program++;
	if (!*program)
		errx(125, "no command");
	environ = calloc(program - variables + 1, sizeof(*environ));
	if (!environ)
		err(125, "environment");
	memcpy(environ, variables, (program - variables) * sizeof(*environ));
	execvp(*program, program);
	err(errno == ENOENT ? 127 : 126, "%s", *program);
}

static void run(const char *folder)
{
	size_t size, count = 0;
	int out = memfd_create("stdout", MFD_CLOEXEC), error = memfd_create("stderr", MFD_CLOEXEC);
	int status;
	pid_t child;

	signal(SIGCHLD, SIG_DFL);
	if (chdir("/run/rig") < 0 || chdir(folder) < 0)
		err(1, "%s", folder);
	char *text = content("argv", &size), **words = calloc(size + 1, sizeof(*words));
	for (char *word = text; words && word < text + size; word += strlen(word) + 1)
		words[count++] = word;
	child = fork();
	if (child < 0 || !words)
		err(1, "%s", folder);
	if (child == 0) {
		int in = open("stdin", O_RDONLY);

		setsid();
		if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(error, 2) < 0 || chdir("/tmp") < 0)
			err(125, "%s", folder);
		if (in > 2)
			close(in);
		become(words);
	}
	if (waitpid(child, &status, 0) < 0)
		err(1, "%s", folder);
	leave("stdout", out);
	leave("stderr", error);
	FILE *file = fopen("status.new", "w");
	if (!file || fprintf(file, "%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)) < 0 ||
	    fclose(file) || rename("status.new", "status") < 0)
		err(1, "%s", folder);
	exit(0);
}

int main(void)
{
	int line = open("/dev/ttyS1", O_RDONLY | O_NOCTTY | O_CLOEXEC);
	struct termios raw;

	if (line < 0 || tcgetattr(line, &raw) < 0)
		err(1, "/dev/ttyS1");
	cfmakeraw(&raw);
	if (tcsetattr(line, TCSANOW, &raw) < 0)
		err(1, "/dev/ttyS1");
	signal(SIGCHLD, SIG_IGN); /* whoever ends is reaped */
	close(open("/run/rig/ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	FILE *lines = fdopen(line, "r");
	char folder[256];
	while (lines && fgets(folder, sizeof(folder), lines)) {
		folder[strcspn(folder, "\n")] = 0;
		if (fork() == 0)
			run(folder);
	}
	err(1, "/dev/ttyS1");
}
