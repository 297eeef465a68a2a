// SPDX-License-Identifier: GPL-2.0
/*
 * Guest instructions of getting filled anonymous memory into a memfd, in user space and kernel:
 * write(2), mmap and memcpy, and the move. Runs under 'qemu -icount shift=0' on one CPU, where the
 * time stamp counter counts instructions. Prints a JSON object; each figure is a median of RUNS.
 *
 * Counted is the call alone (for mmap: ftruncate, mmap, memcpy, munmap). Not counted: filling the
 * source, and what comes later, such as the faults by which the producer reads moved memory again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "kernelzero_uapi.h"

#define PS 4096UL
#define HUGE (2UL << 20)
#define RUNS 5

static int dev;
static struct kernelzero_counts counts; /* of the last call */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *memory(size_t n, int huge)
{
	char *raw = mmap(0, n + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = (char *)(((uintptr_t)raw + HUGE - 1) & -HUGE);

	if (raw == MAP_FAILED || madvise(p, n, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		die("memory");
	memset(p, 7, n);
	return p;
}

static void by_write(int fd, char *p, size_t n)
{
	for (ssize_t done; n; n -= done, p += done) {
		done = write(fd, p, n);
		if (done <= 0)
			die("write");
	}
}

static void by_memcpy(int fd, char *p, size_t n)
{
	char *to;

	if (ftruncate(fd, n))
		die("ftruncate");
	to = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (to == MAP_FAILED)
		die("mmap");
	memcpy(to, p, n);
	munmap(to, n);
}

static void move(int fd, struct kernelzero_range *r, unsigned nr, unsigned flags)
{
	struct kernelzero_deanon d = {
		.size = sizeof(d), .fd = fd, .nr_ranges = nr, .ranges = (uintptr_t)r, .flags = flags
	};

	if (ioctl(dev, KERNELZERO_DEANON, &d))
		die("deanon");
	counts = d.counts;
}

static void by_move(int fd, char *p, size_t n)
{
	move(fd, &(struct kernelzero_range){ .addr = (uintptr_t)p, .len = n }, 1, 0);
	if (counts.moved != n / PS)
		die("not moved");
}

static void by_move_whole(int fd, char *p, size_t n)
{
	move(fd, &(struct kernelzero_range){ .addr = (uintptr_t)p, .len = n }, 1, KERNELZERO_HUGE);
	if (counts.moved_huge != n / PS)
		die("not moved whole");
}

enum { BUFFERS = 1000 };

static void one_call(int fd, char *p, size_t n)
{
	static struct kernelzero_range r[BUFFERS];
	size_t each = n / BUFFERS;

	for (int i = 0; i < BUFFERS; i++)
		r[i] = (struct kernelzero_range){ .addr = (uintptr_t)p + i * each, .len = each };
	move(fd, r, BUFFERS, 0);
}

static void many_calls(int fd, char *p, size_t n)
{
	size_t each = n / BUFFERS;

	for (int i = 0; i < BUFFERS; i++)
		move(fd, &(struct kernelzero_range){ .addr = (uintptr_t)p + i * each, .len = each }, 1, 0);
}

static int ascending(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Instructions per page of n bytes, or per n bytes with pages = 1 */
static uint64_t measure(void (*how)(int, char *, size_t), size_t n, int huge, size_t pages)
{
	uint64_t runs[RUNS], start;

	for (int i = 0; i < RUNS; i++) {
		char *p = memory(n, huge);
		int fd = memfd_create("bench", 0);

		start = __rdtsc();
		how(fd, p, n);
		runs[i] = (__rdtsc() - start) / pages;
		munmap(p, n);
		close(fd);
	}
	qsort(runs, RUNS, sizeof(*runs), ascending);
	return runs[RUNS / 2];
}

static const struct {
	const char *name;
	void (*how)(int, char *, size_t);
	int huge;
} ways[] = {
	{ "write", by_write, 0 },
	{ "mmap_memcpy", by_memcpy, 0 },
	{ "move", by_move, 0 },
	{ "move_huge_split", by_move, 1 },
	{ "move_huge_whole", by_move_whole, 1 },
};

int main(void)
{
	static const size_t sizes[] = { PS, 16 * PS, 256 * PS, HUGE, 32 * HUGE };

	dev = open("/dev/kernelzero", O_RDWR);
	if (dev < 0)
		die("/dev/kernelzero");
	printf("{\"runs\": %d, \"instructions_per_page\": {", RUNS);
	for (size_t w = 0; w < sizeof(ways) / sizeof(*ways); w++) {
		printf("%s\"%s\": {", w ? ", " : "", ways[w].name);
		for (size_t s = 0, some = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
			if (ways[w].huge && sizes[s] < HUGE)
				continue;
			printf("%s\"%zu\": %lu", some++ ? ", " : "", sizes[s],
			       (unsigned long)measure(ways[w].how, sizes[s], ways[w].huge, sizes[s] / PS));
		}
		printf("}");
	}
	printf("}, \"thousand_buffers_of_a_page\": {\"one_call\": %lu, \"calls\": %lu}}\n",
	       (unsigned long)measure(one_call, BUFFERS * PS, 0, 1),
	       (unsigned long)measure(many_calls, BUFFERS * PS, 0, 1));
	return 0;
}
