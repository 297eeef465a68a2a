/*
 * A stand-in for /dev/kernelzero, preloaded (LD_PRELOAD) into test processes: what the module does, as
 * kmod/kernelzero_uapi.h describes it, but by copying. The bytes go to the end of the file, whole
 * pages become a private mapping of it, edge pages stay. Memory that is a file's mapping already is
 * refused. The module itself is tested with the same tests in QEMU (kmod/tests).
 *
 * KERNELZERO_FAIL_AT=n makes the n-th range of a process fail with KERNELZERO_FAIL_WITH, after
 * half of its pages have moved. With KERNELZERO_TRACE=file the ranges of each call are appended to that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernelzero_uapi.h"

#define PAGE 4096UL

int open(const char *path, int flags, ...)
{
	static int (*real)(const char *, int, ...);
	va_list more;
	mode_t mode;

	va_start(more, flags);
	mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
	va_end(more);
	if (!real)
		real = dlsym(RTLD_NEXT, "open");
	return real(strcmp(path, "/dev/kernelzero") ? path : "/dev/null", flags, mode);
}

static int is_anonymous(unsigned long start, unsigned long end)
{
	unsigned long from, to, inode;
	int anonymous = 1;
	char line[4352];
	FILE *maps = fopen("/proc/self/maps", "re");

	if (!maps)
		return -1;
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &from, &to, &inode) == 3 && from < end && to > start)
			anonymous &= inode == 0;
	}
	fclose(maps);
	return anonymous;
}

static int append(int fd, struct kernelzero_range *r, struct kernelzero_counts *counts, int fail)
{
	unsigned long first = (r->addr + PAGE - 1) & -PAGE, last = (r->addr + r->len) & -PAGE;
	unsigned long until = fail ? first + ((last - first) / PAGE / 2) * PAGE : r->addr + r->len;
	unsigned long whole = fail ? until : last;
	struct stat file;

	if (is_anonymous(first, last) < 1)
		return is_anonymous(first, last) ? ENFILE : EINVAL;
	if (fstat(fd, &file))
		return errno;
	r->offset = ((file.st_size + PAGE - 1) & -PAGE) + r->addr % PAGE;
	r->done = until - r->addr;
	for (unsigned long at = r->addr; at < until;) {
		ssize_t n = pwrite(fd, (void *)at, until - at, r->offset + (at - r->addr));

		if (n <= 0)
			return ENOSPC;
		at += n;
	}
	counts->copied += (first > r->addr) + (!fail && last < until);
	counts->moved += (whole - first) / PAGE;
	if (whole > first && mmap((void *)first, whole - first, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
				  fd, r->offset + (first - r->addr)) == MAP_FAILED)
		return errno;
	return 0;
}

static void trace(const struct kernelzero_deanon *d)
{
	const struct kernelzero_range *r = (void *)d->ranges;
	const char *path = getenv("KERNELZERO_TRACE");
	FILE *file = path ? fopen(path, "ae") : NULL;

	if (!file)
		return;
	for (unsigned i = 0; i < d->nr_ranges; i++)
		fprintf(file, "%llu %llu\n", r[i].addr, r[i].len);
	fprintf(file, "\n");
	fclose(file);
}

static int deanon(struct kernelzero_deanon *d)
{
	static int calls;
	const char *fail_at = getenv("KERNELZERO_FAIL_AT");
	struct kernelzero_range *ranges = (void *)d->ranges;
	int error = 0;

	trace(d);
	d->ranges_done = 0;
	memset(&d->counts, 0, sizeof(d->counts));
	for (unsigned i = 0; i < d->nr_ranges && !error; i++) {
		int fail = fail_at && ++calls == atoi(fail_at);

		error = append(d->fd, &ranges[i], &d->counts, fail);
		if (fail)
			error = atoi(getenv("KERNELZERO_FAIL_WITH"));
		d->ranges_done += !error;
	}
	return error;
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	struct kernelzero_query *query;
	va_list more;
	void *argument;

	va_start(more, request);
	argument = va_arg(more, void *);
	va_end(more);
	if (request == KERNELZERO_QUERY) {
		query = argument;
		query->version = KERNELZERO_VERSION;
		query->page_size = PAGE;
		return 0;
	}
	if (request == KERNELZERO_DEANON) {
		errno = deanon(argument);
		return errno ? -1 : 0;
	}
	if (!real)
		real = dlsym(RTLD_NEXT, "ioctl");
	return real(fd, request, argument);
}
