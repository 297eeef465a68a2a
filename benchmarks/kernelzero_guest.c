// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to get filled anonymous memory into a memfd, in user space and kernel: write(2), mmap
 * and memcpy, and the move. Under 'qemu -icount shift=0' on one CPU the time stamp counter counts
 * instructions; with 'clock' it is nanoseconds, for a machine that has the module. Arguments: [LAYOUTS [clock]].
 * Prints a JSON object; each figure is a median of RUNS.
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
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "kernelzero_uapi.h"

#define PS 4096UL
#define HUGE (2UL << 20)
#define RUNS 3

static int dev;
static struct kernelzero_counts counts; /* of the last call */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

enum { MOST = 1000 };

/* Buffers, by their offset; in one call, or in a call for each. Only their first `fill` bytes were touched. */
static struct {
	unsigned buffers;
	struct kernelzero_range r[MOST];
	size_t fill;
} batch;

static char *memory(size_t n, int huge)
{
	char *raw = mmap(0, n + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = (char *)(((uintptr_t)raw + HUGE - 1) & -HUGE);

	if (raw == MAP_FAILED || madvise(p, n, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		die("memory");
	if (!batch.buffers)
		memset(p, 7, n);
	for (unsigned i = 0; i < batch.buffers; i++)
		memset(p + batch.r[i].addr, 7, batch.fill < batch.r[i].len ? batch.fill : batch.r[i].len);
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

static void one_call(int fd, char *p, size_t n)
{
	static struct kernelzero_range r[MOST];

	(void)n;
	for (unsigned i = 0; i < batch.buffers; i++)
		r[i] = (struct kernelzero_range){ .addr = (uintptr_t)p + batch.r[i].addr, .len = batch.r[i].len };
	move(fd, r, batch.buffers, 0);
}

static void many_calls(int fd, char *p, size_t n)
{
	(void)n;
	for (unsigned i = 0; i < batch.buffers; i++)
		move(fd,
		     &(struct kernelzero_range){ .addr = (uintptr_t)p + batch.r[i].addr, .len = batch.r[i].len },
		     1, 0);
}

static int ascending(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static uint64_t by_clock;

static uint64_t now(void)
{
	struct timespec t;

	if (!by_clock)
		return __rdtsc();
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Cost per page of n bytes, or of n bytes with pages = 1 */
static uint64_t measure(void (*how)(int, char *, size_t), size_t n, int huge, size_t pages)
{
	uint64_t runs[RUNS], start;

	for (int i = 0; i < RUNS; i++) {
		char *p = memory(n, huge);
		int fd = memfd_create("bench", 0);

		start = now();
		how(fd, p, n);
		runs[i] = (now() - start) / pages;
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

static void measure_batch(size_t n, unsigned pages)
{
	printf("\"pages\": %u, \"buffers\": %u, \"one_call\": %lu, ", pages, batch.buffers,
	       (unsigned long)measure(one_call, n, 0, 1));
	printf("\"calls\": %lu}", (unsigned long)measure(many_calls, n, 0, 1));
}

/* Calls over buffers side by side, and with a page between them: what a call costs, and a buffer. */
static void measure_batches(void)
{
	static const unsigned buffers[] = { 1, 10, 100, MOST };
	static const size_t pages[] = { 1, 4, 16 };
	int some = 0;

	printf("\"batches\": [");
	for (int apart = 0; apart < 2; apart++)
		for (size_t p = 0; p < sizeof(pages) / sizeof(*pages); p++)
			for (size_t b = 0; b < sizeof(buffers) / sizeof(*buffers); b++) {
				size_t step = (pages[p] + apart) * PS;

				batch.buffers = buffers[b];
				batch.fill = pages[p] * PS;
				for (unsigned i = 0; i < batch.buffers; i++)
					batch.r[i] = (struct kernelzero_range){ .addr = i * step, .len = batch.fill };
				printf("%s{\"adjacent\": %s, ", some++ ? ", " : "", apart ? "false" : "true");
				measure_batch(batch.buffers * step, pages[p]);
			}
	printf("]");
}

/*
 * Buffers as they lay in a process: lines of a name and a number, and then of so many offsets and lengths.
 * Of each buffer 1, 4 and 8 pages were touched, so that what does not depend on these can be told; or all.
 */
static void measure_layouts(const char *path)
{
	static const size_t pages[] = { 1, 4, 8, 1 << 20 };
	FILE *file = fopen(path, "r");
	char name[64];
	int some = 0;

	if (!file)
		die(path);
	printf(", \"layouts\": [");
	while (fscanf(file, "%63s %u", name, &batch.buffers) == 2 && batch.buffers <= MOST) {
		size_t end = 0;

		for (unsigned i = 0; i < batch.buffers; i++) {
			unsigned long long at, length;

			if (fscanf(file, "%llu %llu", &at, &length) != 2)
				die("layout");
			batch.r[i] = (struct kernelzero_range){ .addr = at, .len = length };
			end = at + length > end ? at + length : end;
		}
		for (size_t p = 0; p < sizeof(pages) / sizeof(*pages); p++) {
			batch.fill = pages[p] * PS;
			printf("%s{\"name\": \"%s\", ", some++ ? ", " : "", name);
			measure_batch(end, pages[p]);
		}
	}
	printf("]");
	fclose(file);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { PS, 16 * PS, 256 * PS, HUGE, 32 * HUGE };

	by_clock = argc > 2 && !strcmp(argv[2], "clock");
	dev = open("/dev/kernelzero", O_RDWR);
	if (dev < 0)
		die("/dev/kernelzero");
	printf("{\"runs\": %d, \"per_page\": {", RUNS);
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
	printf("}, ");
	measure_batches();
	if (argc > 1)
		measure_layouts(argv[1]);
	printf("}\n");
	return 0;
}
