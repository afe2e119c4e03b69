/* Times two commands in turn: ours, other, other, ours, ours, ... so that other load
 * of the machine affects both.
 *
 *   pair [-c] [-n COUNT] [-1] [-a CMD] [-b CMD] -- OURS... -- OTHER...
 *
 *   -c        processor time, of the user and of the system, instead of elapsed time
 *   -n COUNT  pairs (10)
 *   -1        omit the first pair, whose times do not count
 *   -a CMD    shell command before each OURS, not timed
 *   -b CMD    shell command before each OTHER, not timed
 *
 * Prints a line for each pair: ms of ours, ms of other, peak KiB of ours, peak
 * KiB of other. Standard output of the commands goes to /dev/null. If a command fails,
 * pair ends with status 1.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

struct side {
	const char *before;
	char **command;
	double ms;
	long peak_kib;
};

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static double used_ms(const struct rusage *usage)
{
	return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e3 +
	       (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e3;
}

static void die(const char *what, const char *name)
{
	fprintf(stderr, "pair: %s: %s\n", what, name);
	exit(1);
}

static void run(struct side *side, int processor)
{
	posix_spawn_file_actions_t files;
	struct rusage usage;
	double began;
	int status;
	pid_t pid;

	if (side->before && system(side->before) != 0)
		die("failed", side->before);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	began = now_ms();
	if (posix_spawnp(&pid, side->command[0], &files, NULL, side->command, environ) != 0)
		die("cannot run", side->command[0]);
	if (wait4(pid, &status, 0, &usage) != pid)
		die("cannot wait for", side->command[0]);
	side->ms = processor ? used_ms(&usage) : now_ms() - began;
	side->peak_kib = usage.ru_maxrss;
	posix_spawn_file_actions_destroy(&files);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die("failed", side->command[0]);
}

/* Cuts the command off at the next "--" and returns what is behind it. */
static char **command(char **words, struct side *side)
{
	side->command = words;
	while (*words && strcmp(*words, "--") != 0)
		words++;
	if (words == side->command)
		die("no command", "usage: pair [OPTIONS] -- OURS... -- OTHER...");
	if (!*words)
		return words;
	*words = NULL;
	return words + 1;
}

int main(int argc, char **argv)
{
	struct side ours = { 0 }, other = { 0 };
	int option, count = 10, first = 0, processor = 0;

	while ((option = getopt(argc, argv, "+cn:1a:b:")) != -1) {
		switch (option) {
		case 'c': processor = 1; break;
		case 'n': count = atoi(optarg); break;
		case '1': first = 1; break;
		case 'a': ours.before = optarg; break;
		case 'b': other.before = optarg; break;
		default: return 2;
		}
	}
	command(command(argv + optind, &ours), &other);
	for (int pair = first; pair <= count; pair++) {
		run(pair % 2 ? &ours : &other, processor);
		run(pair % 2 ? &other : &ours, processor);
		if (pair == 0)
			continue; /* only warms things up */
		printf("%.3f %.3f %ld %ld\n", ours.ms, other.ms, ours.peak_kib, other.peak_kib);
		fflush(stdout);
	}
	return 0;
}
