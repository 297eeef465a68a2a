// SPDX-License-Identifier: GPL-2.0
/* Every kind of page that can lie in a range, and every state of the file it goes to. */
#include "kz.h"

#include <linux/io_uring.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* 6.1 counts a task's RSS in batches of 64 faults (SPLIT_RSS_COUNTING): make it add up what it has. */
static void settle_rss(void)
{
	char *p = memory(128 * PS, 0);

	for (int i = 0; i < 128; i++)
		((volatile char *)p)[i * PS] = 1;
	munmap(p, 128 * PS);
}

/* Plain pages or whole huge pages: contents, privacy of later writes, accounting */
static void present(int huge)
{
	size_t n = 16 * MB;
	int fd = memfd();
	char *p = memory(n, huge), *q;
	long shmem = field("/proc/meminfo", "Shmem"), rss, rollup;
	struct stat st;
	pid_t pid;

	fill(p, n, 3);
	settle_rss();
	rss = field("/proc/self/status", "VmRSS");
	rollup = field("/proc/self/smaps_rollup", "Rss");
	CHECK(!deanon(fd, p, n, KERNELZERO_HUGE));
	CHECK(got.moved == n / PS && !got.copied && !got.holes && got.moved_huge == (huge ? n / PS : 0));
	CHECK(!fstat(fd, &st) && st.st_size == (off_t)(got_offset + n) && st.st_blocks == (long)n / 512);
	CHECK(labs(field("/proc/meminfo", "Shmem") - shmem - (long)n / 1024) < 1024);
	settle_rss();
	CHECK(labs(field("/proc/self/status", "VmRSS") - rss + (long)n / 1024) < 512);
	CHECK(labs(field("/proc/self/smaps_rollup", "Rss") - rollup + (long)n / 1024) < 512);
	CHECK(same(p, n, 3, 0) && pages_with(p, n, PM_FILE) == (long)(n / PS));
	settle_rss();
	CHECK(labs(field("/proc/self/status", "VmRSS") - rss) < 512);
	CHECK(labs(field("/proc/self/smaps_rollup", "Rss") - rollup) < 512);
	CHECK(file_same(fd, got_offset, n, 3, 0));
	q = mmap(0, n, PROT_READ, MAP_SHARED, fd, got_offset);
	CHECK(same(q, n, 3, 0));
	fill(p, n / 2, 4); /* the writer's later writes are its own */
	CHECK(same(p, n / 2, 4, 0) && same(p + n / 2, n / 2, 3, n / 2) && same(q, n, 3, 0));
	pid = fork();
	if (!pid)
		_exit(!same(p, n / 2, 4, 0) || !same(q, n, 3, 0));
	child_ok(pid);
	munmap(p, n);
	CHECK(same(q, n, 3, 0));
}

static void t_present(void)
{
	present(0);
}

static void t_huge(void)
{
	present(1);
}

/* A range of several chunks splits but the huge pages at its ends */
static void t_huge_chunks(void)
{
	size_t n = 40 * MB;
	char *p = memory(n, 1);
	int fd = memfd();

	fill(p, n, 2);
	CHECK(!deanon(fd, p + PS, n - 2 * PS, KERNELZERO_HUGE) && got.moved == n / PS - 2 && got.split == 2);
	CHECK(got.moved_huge == (n - 2 * HUGE) / PS && same(p, n, 2, 0));
	CHECK(file_same(fd, got_offset, n - 2 * PS, 2, PS));
}

static void t_holes(void)
{
	size_t pages = 512;
	char *p = memory(pages * PS, 0);
	volatile char *zero = p + PS;
	int fd = memfd(), status;
	struct stat st;

	for (size_t i = 0; i < pages; i += 2)
		fill(p + i * PS, PS, i);
	CHECK(!*zero); /* maps the zero page */
	CHECK(!mprotect(p + 64 * PS, 64 * PS, PROT_READ));
	CHECK(!deanon(fd, p, pages * PS, 0) && got.moved == pages / 2 && got.holes == pages / 2);
	CHECK(!fstat(fd, &st) && st.st_blocks == (long)(pages / 2 * 8));
	CHECK(lseek(fd, 0, SEEK_HOLE) == (off_t)PS); /* before a read fault fills the holes */
	for (size_t i = 0; i < pages; i++)
		CHECK(i % 2 ? !p[i * PS] && !p[i * PS + PS - 1] : same(p + i * PS, PS, i, 0));
	CHECK(deanon(fd, p, PS, 0) == EINVAL); /* a second call: no longer anonymous */
	if (!fork()) {
		p[64 * PS] = 1; /* stayed read-only */
		_exit(0);
	}
	wait(&status);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);

	zero = memory(HUGE, 1); /* the huge zero page */
	CHECK(!*zero && !deanon(fd, (char *)zero, HUGE, KERNELZERO_HUGE) && got.holes == 512 && !*zero);
}

/* How the mapping of an address may be used, as "r--p" */
static int allows(const void *at, const char *how)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned long from, to;
	char line[512], found[8] = "";

	CHECK(f);
	while (fgets(line, sizeof(line), f) && !*found)
		if (sscanf(line, "%lx-%lx %7s", &from, &to, found) != 3 || (uintptr_t)at < from || (uintptr_t)at >= to)
			*found = 0;
	fclose(f);
	return !strcmp(found, how);
}

/* Ranges that the process may not write to, or not even read, stay so */
static void t_protected(void)
{
	size_t n = 2 * HUGE;
	const char *how[] = { "r--p", "---p" };

	for (int round = 0; round < 6; round++) {
		int fd = memfd(), none = round & 1;
		char *p = memory(n, round / 2 == 1);

		fill(p, n, round);
		if (round / 2 == 2)
			CHECK(!madvise(p, n / 2, MADV_PAGEOUT));
		CHECK(!mprotect(p, n, none ? PROT_NONE : PROT_READ));
		CHECK(!deanon(fd, p, n, KERNELZERO_HUGE) && got.moved + got.swapped == n / PS);
		CHECK(allows(p, how[none]) && file_same(fd, got_offset, n, round, 0));
		CHECK(!mprotect(p, n, PROT_READ | PROT_WRITE) && same(p, n, round, 0));
		fill(p, n, 9);
		CHECK(file_same(fd, got_offset, n, round, 0) && !munmap(p, n) && !close(fd));
	}
}

static void t_forked(void)
{
	size_t n = 4 * MB;
	char *p[3] = { memory(n, 0), memory(n, 1), memory(n, 0) };
	int fd = memfd(), pipes[2];
	pid_t pid;
	char c;

	for (int i = 0; i < 3; i++)
		fill(p[i], n, i);
	CHECK(!madvise(p[2], n, MADV_PAGEOUT) && !pipe(pipes));
	CHECK(pages_with(p[2], n, PM_SWAPPED) > (long)(n / PS / 2));
	pid = fork();
	if (!pid) {
		close(pipes[1]);
		CHECK(!read(pipes[0], &c, 1));
		_exit(!same(p[0], n, 0, 0) || !same(p[1], n, 1, 0) || !same(p[2], n, 2, 0));
	}
	for (int i = 0; i < 3; i++) {
		CHECK(!deanon(fd, p[i], n, KERNELZERO_HUGE) && got.copied + got.moved == n / PS);
		CHECK(i == 2 || got.copied == n / PS);
		CHECK(file_same(fd, got_offset, n, i, 0) && same(p[i], n, i, 0));
		fill(p[i], n, 9); /* neither child nor file may see it */
		CHECK(file_same(fd, got_offset, n, i, 0));
	}
	close(pipes[1]);
	child_ok(pid);
	p[0] = memory(n, 0); /* a child that is gone shares nothing */
	fill(p[0], n, 4);
	pid = fork();
	if (!pid)
		_exit(0);
	child_ok(pid);
	CHECK(!deanon(fd, p[0], n, 0) && got.moved == n / PS && same(p[0], n, 4, 0));
}

/* Pages that a device could be writing to: buffers registered with io_uring */
static void t_pinned_long(void)
{
	char *p = memory(16 * PS, 0);
	struct io_uring_params params = { 0 };
	struct iovec v = { p + 8 * PS, 4 * PS };
	int fd = memfd(), ring = syscall(SYS_io_uring_setup, 4, &params);

	fill(p, 16 * PS, 1);
	CHECK(ring >= 0 && !syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1));
	CHECK(!deanon(fd, p, 16 * PS, 0) && got.copied == 4 && got.moved == 12);
	CHECK(same(p, 16 * PS, 1, 0) && file_same(fd, 0, 16 * PS, 1, 0) && !close(ring));
}

static void t_pinned(void)
{
	char *p = memory(16 * PS, 0), *h = memory(HUGE, 1), back[4 * PS];
	int fd = memfd(), pipes[2];
	struct iovec v = { p, 4 * PS }, w = { h + 8 * PS, 4 * PS };

	fill(p, 16 * PS, 2);
	CHECK(!pipe(pipes) && vmsplice(pipes[1], &v, 1, 0) == (ssize_t)(4 * PS));
	CHECK(!deanon(fd, p, 16 * PS, 0) && got.copied == 4 && got.moved == 12);
	fill(p, 16 * PS, 3);
	CHECK(read(pipes[0], back, sizeof(back)) == sizeof(back) && same(back, sizeof(back), 2, 0));
	CHECK(file_same(fd, 0, 16 * PS, 2, 0));
	fill(h, HUGE, 4); /* a huge page that cannot be split */
	CHECK(vmsplice(pipes[1], &w, 1, 0) == (ssize_t)(4 * PS));
	CHECK(!deanon(fd, h, HUGE, KERNELZERO_HUGE) && got.copied == 512 && !got.split);
	fill(h, HUGE, 5);
	CHECK(read(pipes[0], back, sizeof(back)) == sizeof(back) && same(back, sizeof(back), 4, 8 * PS));
	CHECK(file_same(fd, got_offset, HUGE, 4, 0));
}

/* Huge pages with a part gone, or with a range that does not cover them */
static void t_partly_huge(void)
{
	size_t n = 4 * MB;
	char *p = memory(n, 1);
	int fd = memfd();

	fill(p, n, 4);
	CHECK(!madvise(p + MB, 16 * PS, MADV_DONTNEED));
	CHECK(!deanon(fd, p, n, KERNELZERO_HUGE) && got.holes == 16 && got.moved + got.copied == n / PS - 16);
	CHECK(got.moved_huge == 512 && got.split == 1);
	CHECK(same(p, MB, 4, 0) && !p[MB] && same(p + MB + 16 * PS, n - MB - 16 * PS, 4, MB + 16 * PS));
	p = memory(n, 1);
	fill(p, n, 5);
	CHECK(!deanon(fd, p + 5 * PS, n - 9 * PS, KERNELZERO_HUGE) && got.split == 2 && got.moved == n / PS - 9);
	CHECK(same(p, n, 5, 0) && file_same(fd, got_offset, n - 9 * PS, 5, 5 * PS));
	p = memory(n, 1); /* mapped by pages, still one folio */
	fill(p, n, 6);
	CHECK(!mprotect(p + PS, PS, PROT_READ) && !deanon(fd, p, n, KERNELZERO_HUGE));
	CHECK(got.moved == n / PS && got.moved_huge == 512 && same(p, n, 6, 0));
}

static void t_lazyfree(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0);
	int fd = memfd(), kept = 0;

	fill(p, n, 6);
	CHECK(!madvise(p, n, MADV_FREE) && !deanon(fd, p, n, 0));
	CHECK(got.copied + got.holes == n / PS && !got.moved);
	for (size_t i = 0; i < n; i += PS) { /* either kept or freed, and the same on both sides */
		CHECK(p[i] ? same(p + i, PS, 6, i) && file_same(fd, i, PS, 6, i) : file_zero(fd, i, PS));
		kept += !!p[i];
	}
	CHECK(kept);
}

static void t_ksm(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0);
	int fd = memfd();

	for (size_t i = 0; i < n; i += PS)
		fill(p + i, PS, i / PS % 4);
	CHECK(!madvise(p, n, MADV_MERGEABLE));
	put("/sys/kernel/mm/ksm/pages_to_scan", "5000");
	put("/sys/kernel/mm/ksm/run", "1");
	while (field("/sys/kernel/mm/ksm/pages_sharing", "") < 32)
		usleep(20000);
	CHECK(!deanon(fd, p, n, 0) && got.copied >= 32 && got.copied + got.moved == n / PS);
	put("/sys/kernel/mm/ksm/run", "2");
	for (size_t i = 0; i < n; i += PS)
		CHECK(same(p + i, PS, i / PS % 4, 0) && file_same(fd, i, PS, i / PS % 4, 0));
	put("/sys/kernel/mm/ksm/run", "0");
}

/* Soft-dirty tracking (CRIU) must see the new mapping as changed */
static void t_soft_dirty(void)
{
	size_t n = 16 * PS;
	char *p = memory(n, 0);
	int fd = memfd();

	fill(p, n, 1);
	put("/proc/self/clear_refs", "4");
	CHECK(!pages_with(p, n, PM_SOFT_DIRTY));
	CHECK(!deanon(fd, p, n, 0) && same(p, n, 1, 0) && pages_with(p, n, PM_SOFT_DIRTY) == (long)(n / PS));
}

/* Pages fallocated beyond the end make way */
static void t_fallocated(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0);
	int fd = memfd();
	struct stat st;

	fill(p, n, 1);
	CHECK(write(fd, "x", 1) == 1 && !fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 32 * PS));
	CHECK(!madvise(p, 8 * PS, MADV_PAGEOUT) && !deanon(fd, p, n, 0) && !got.copied);
	CHECK(got_offset == (off_t)PS && file_same(fd, PS, n, 1, 0) && file_zero(fd, 1, PS - 1));
	CHECK(!fstat(fd, &st) && st.st_size == (off_t)(n + PS) && st.st_blocks == (long)(n / PS + 1) * 8);
}

/* A file whose own pages are huge: they reach beyond its end, where ours must go */
static void t_huge_file(void)
{
	size_t n = 3 * HUGE;
	char *p = memory(n, 0);
	int fd, pipes[2];
	struct iovec v = { p + 7 * PS, PS };

	CHECK(!mkdir("/hugefs", 0755) || errno == EEXIST);
	CHECK(!mount("none", "/hugefs", "tmpfs", 0, "huge=always"));
	for (int round = 0; round < 3; round++) {
		fd = open("/hugefs/f", O_RDWR | O_CREAT | O_TRUNC, 0600);
		p = memory(n, round == 1);
		v.iov_base = p + 7 * PS;
		fill(p, n, round);
		CHECK(fd >= 0 && pwrite(fd, "abc", 3, 0) == 3);
		CHECK(!pipe(pipes) && vmsplice(pipes[1], &v, 1, 0) == (ssize_t)PS); /* one to be copied */
		if (round == 2)
			CHECK(!madvise(p + HUGE, HUGE, MADV_PAGEOUT));
		CHECK(!deanon(fd, p + 5, n - 9, KERNELZERO_HUGE));
		CHECK(same(p, n, round, 0) && file_same(fd, got_offset, n - 9, round, 5) && got_offset > 2);
		close(pipes[0]);
		close(pipes[1]);
		munmap(p, n);
		close(fd);
	}
	/* khugepaged may have the file in its hands for a moment */
	for (int tries = 0; umount("/hugefs") && tries < 100; tries++)
		usleep(100000);
	CHECK(umount("/hugefs") && errno == EINVAL);
}

const struct group page_groups[] = {
	{ "present", t_present, FAST | FULL },
	{ "huge", t_huge, FAST | FULL },
	{ "huge_chunks", t_huge_chunks, FAST | FULL },
	{ "holes", t_holes, FAST | FULL },
	{ "protected", t_protected, FAST | FULL },
	{ "forked", t_forked, FAST | FULL },
	{ "pinned", t_pinned, FAST | FULL },
	{ "pinned_long", t_pinned_long, FAST | FULL },
	{ "partly_huge", t_partly_huge, FAST | FULL },
	{ "lazyfree", t_lazyfree, FAST | FULL },
	{ "ksm", t_ksm, FULL },
	{ "soft_dirty", t_soft_dirty, FULL },
	{ "fallocated", t_fallocated, FAST | FULL },
	{ "huge_file", t_huge_file, FAST | FULL },
	{ NULL, NULL, 0 },
};
