// SPDX-License-Identifier: GPL-2.0
/* Every failure inside a call, by the fault points of the tests' build: nothing lost, nothing left. */
#include "kz.h"

#include <sys/statvfs.h>

static void fail(const char *point, int n)
{
	char path[80], number[16];

	snprintf(path, sizeof(path), "/sys/module/kernelzero/parameters/fail_%s", point);
	snprintf(number, sizeof(number), "%d", n);
	put(path, number);
}

/* The point was passed: the fault did happen. */
static int failed(const char *point)
{
	char path[80];

	snprintf(path, sizeof(path), "/sys/module/kernelzero/parameters/fail_%s", point);
	return field(path, "") == 0;
}

static pid_t sharer; /* a child that holds all pages, so that they must be copied */
static int sharer_pipe[2];

static void share(void)
{
	char c;

	CHECK(!pipe(sharer_pipe));
	sharer = fork();
	if (!sharer) {
		close(sharer_pipe[1]);
		_exit(read(sharer_pipe[0], &c, 1) != 0);
	}
}

static void unshare_all(void)
{
	close(sharer_pipe[1]);
	child_ok(sharer);
}

/* Before anything is unmapped: an error, and all is as it was. Then the same call works. */
static void fails_clean(const char *point, int n, int err, int shared)
{
	size_t len = 300 * PS;
	char *p = memory(len, 0);
	int fd = memfd();
	struct stat st;

	fill(p, len, 1);
	CHECK(!madvise(p + 100 * PS, 50 * PS, MADV_PAGEOUT));
	if (shared)
		share();
	fail(point, n);
	CHECK(deanon(fd, p + 7, len - 11, 0) == err && failed(point) && !got_done);
	CHECK(!got.moved && !got.swapped && !got.copied && !got.holes);
	CHECK(same(p, len, 1, 0) && !fstat(fd, &st) && !st.st_size && !st.st_blocks);
	CHECK(pages_with(p, len, PM_FILE) == 0);
	CHECK(!deanon(fd, p + 7, len - 11, 0) && same(p, len, 1, 0) && file_same(fd, 7, len - 11, 1, 7));
	if (shared)
		unshare_all();
	munmap(p, len);
	close(fd);
}

static void t_fail_early(void)
{
	fails_clean("charge", 1, ENOSPC, 0); /* the first edge */
	fails_clean("charge", 2, ENOSPC, 0);
	fails_clean("alloc", 1, ENOMEM, 0); /* the first edge */
	fails_clean("alloc", 2, ENOMEM, 1);
	fails_clean("alloc", 200, ENOMEM, 1);
	fails_clean("map", 1, ENOMEM, 0);
	fails_clean("map", 1, ENOMEM, 1);
}

/* In a later chunk, and at the last edge: what was done stays, and is said */
static void t_fail_later(void)
{
	size_t n = 40 * MB;
	static const char *const points[] = { "charge", "map", "alloc" };

	for (int i = 0; i < 3; i++) {
		char *p = memory(n, 0);
		int fd = memfd();
		size_t want = i == 2 ? n - PS : 16 * MB;
		struct stat st;

		fill(p, n, i);
		fail(points[i], i == 2 ? 1 : 2);
		CHECK(deanon(fd, p, n - 5, 0) == (i ? ENOMEM : ENOSPC) && failed(points[i]) && got_done == want);
		CHECK(!fstat(fd, &st) && st.st_size == (off_t)want && st.st_blocks == (long)want / 512);
		CHECK(same(p, n, i, 0) && file_same(fd, 0, want, i, 0));
		munmap(p, n);
		close(fd);
	}
}

/* After the unmapping nothing is an error any more */
static void t_fail_late(void)
{
	size_t n = 4 * HUGE;
	static const char *const points[] = { "gap", "take", "store" };

	for (int i = 0; i < 3; i++)
		for (int huge = 0; huge < 2; huge++)
			for (int nth = 1; nth <= 3; nth++) {
				char *p = memory(n, huge);
				int fd = memfd();
				struct stat st;

				fill(p, n, nth);
				CHECK(huge || !madvise(p + MB, MB, MADV_PAGEOUT));
				fail(points[i], i ? nth : 1);
				CHECK(!deanon(fd, p, n, KERNELZERO_HUGE) && failed(points[i]));
				CHECK(got.copied == (i != 1 ? 0 : huge ? 512 : 1));
				CHECK(same(p, n, nth, 0) && file_same(fd, got_offset, n, nth, 0));
				CHECK(!fstat(fd, &st) && st.st_blocks == (long)n / 512);
				munmap(p, n);
				close(fd);
			}
}

static volatile int stop;

static void *stat_often(void *arg)
{
	struct stat st;

	while (!stop)
		CHECK(!fstat(*(int *)arg, &st));
	return NULL;
}

/* stat() recalculates a file's blocks: a charge given back must not be given back twice */
static void t_fail_stat(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0);
	int fd = open("/small/f", O_RDWR | O_CREAT, 0600);
	struct statvfs before, after;
	pthread_t thread;
	struct stat st;

	fill(p, n, 1);
	CHECK(!statvfs("/small", &before) && !pthread_create(&thread, NULL, stat_often, &fd));
	for (int i = 0; i < 3000; i++) {
		fail("map", 1);
		CHECK(deanon(fd, p, n, 0) == ENOMEM);
	}
	stop = 1;
	CHECK(!pthread_join(thread, NULL) && !fstat(fd, &st) && !st.st_blocks);
	CHECK(!statvfs("/small", &after) && after.f_bfree == before.f_bfree && !unlink("/small/f"));
}

const struct group fault_groups[] = {
	{ "fail_early", t_fail_early, FAULTS },
	{ "fail_later", t_fail_later, FAULTS },
	{ "fail_late", t_fail_late, FAULTS },
	{ "fail_stat", t_fail_stat, FAULTS },
	{ NULL, NULL, 0 },
};
