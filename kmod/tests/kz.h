/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test groups share. A group runs as root in a process of its own; CHECK ends it. What is
 * in memory and in a file is compared with a pattern computed anew from seed and position.
 */
#ifndef KZ_H
#define KZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernelzero_uapi.h"

#define PS 4096UL
#define MB (1UL << 20)
#define HUGE (2 * MB)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* the sets that run.py asks for */
#define FAST 1
#define FULL 2
#define FAULTS 4 /* wants the module built with -DKZ_FAULTS */
#define MEMCG 8	 /* wants a memory controller at /cg, version 1 or 2 */
#define SWAP 16

struct group {
	const char *name;
	void (*run)(void);
	int sets;
};

extern const struct group call_groups[], page_groups[], swap_groups[], account_groups[], race_groups[],
	fault_groups[], stress_groups[];

extern int dev;
extern unsigned long seed, seconds;

#define CHECK(c)                                                                                             \
	do {                                                                                                 \
		if (!(c)) {                                                                                  \
			printf("  %s:%d: %s (errno %d)\n", __FILE_NAME__, __LINE__, #c, errno);              \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

/* Ends the group as not run; run.py takes that for a failure, as its guests have everything. */
void skip(const char *why) __attribute__((noreturn));

unsigned char pattern(unsigned s, size_t i);
void fill(void *at, size_t n, unsigned s);
int same(const void *at, size_t n, unsigned s, size_t skipped); /* from byte number skipped of fill() on */
int file_same(int fd, off_t offset, size_t n, unsigned s, size_t skipped);
int file_zero(int fd, off_t offset, size_t n);

char *memory(size_t n, int huge); /* anonymous, aligned to 2 MiB */
int memfd(void);
long pages_with(const void *at, size_t n, int bit); /* of /proc/self/pagemap */
#define PM_PRESENT 63
#define PM_SWAPPED 62
#define PM_FILE 61
#define PM_SOFT_DIRTY 55

extern __thread struct kernelzero_counts got; /* of the last call of this thread */
extern __thread unsigned got_ranges;
extern __thread off_t got_offset;
extern __thread size_t got_done;
int call(int fd, struct kernelzero_range *r, unsigned nr, unsigned flags); /* 0 or errno */
int deanon(int fd, void *at, size_t n, unsigned flags);

long field(const char *file, const char *name);
void put(const char *file, const char *text);
int release(void); /* 601 for Linux 6.1, 612 for 6.12 */
void child_ok(pid_t pid);
void new_cgroup(void); /* /cg/t, without limits */
void enter_cgroup(const char *limit);
void leave_cgroup(void);

#endif
