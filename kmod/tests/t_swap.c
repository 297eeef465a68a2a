// SPDX-License-Identifier: GPL-2.0
/* Swapped memory: on zram, on a slow disk whose writes are still under way, and swapoff afterwards. */
#include "kz.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/swap.h>
#include <sys/syscall.h>

static void t_swapped(void)
{
	size_t n = 8 * MB;
	char *p = memory(n, 0), *q;
	int fd = memfd();
	long before;
	struct stat st;

	fill(p, n, 8);
	CHECK(!madvise(p, n, MADV_PAGEOUT));
	before = field("/proc/self/status", "VmSwap");
	CHECK(before > (long)n / 2048);
	CHECK(!deanon(fd, p, n, 0) && got.swapped * 4 >= (unsigned long)before - 64);
	CHECK(got.swapped + got.moved + got.copied == n / PS);
	CHECK(!fstat(fd, &st) && st.st_blocks == (long)n / 512);
	CHECK(same(p, n, 8, 0) && file_same(fd, 0, n, 8, 0));
	q = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* moved pages stay swappable */
	CHECK(same(q, n, 8, 0) && !munmap(p, n));
	before = field("/proc/meminfo", "SwapFree");
	CHECK(!madvise(q, n, MADV_PAGEOUT) && field("/proc/meminfo", "SwapFree") < before - (long)n / 4096);
	CHECK(same(q, n, 8, 0));
}

/* Swap entries that a child shares are faulted in by windows, which may reach over the mapping's end */
static void t_swapped_shared(void)
{
	size_t n = 80 * PS;
	char *p = memory(n, 0), c;
	int fd = memfd(), pipes[2];
	pid_t pid;

	fill(p, n, 3);
	CHECK(!madvise(p, n, MADV_PAGEOUT) && pages_with(p, n, PM_SWAPPED) == 80 && !pipe(pipes));
	pid = fork();
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) || !same(p, n, 3, 0));
	}
	CHECK(!munmap(p + 70 * PS, PS) && deanon(fd, p, n, 0) == ENOMEM && got_done == 70 * PS);
	CHECK(got.retried && got.copied + got.moved == 70 && file_same(fd, 0, 70 * PS, 3, 0));
	CHECK(!mprotect(p + 71 * PS, 9 * PS, PROT_NONE) && deanon(fd, p + 71 * PS, 9 * PS, 0) == EFAULT);
	CHECK(!got_done && !mprotect(p + 71 * PS, 9 * PS, PROT_READ));
	CHECK(same(p, 70 * PS, 3, 0) && same(p + 71 * PS, 9 * PS, 3, 71 * PS));
	close(pipes[1]);
	child_ok(pid);
}

/* The window ends with the mapping: what follows may have nobody to fill it, as here */
static void t_swapped_window(void)
{
	size_t n = 20 * PS;
	char *p = memory(2 * n, 0), c;
	int fd = memfd(), pipes[2], uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { (uintptr_t)p + n, n }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	pid_t pid;

	fill(p, n, 5);
	CHECK(!madvise(p, n, MADV_PAGEOUT) && pages_with(p, n, PM_SWAPPED) == 20 && !pipe(pipes));
	pid = fork();
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) != 0);
	}
	CHECK(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &reg));
	alarm(30); /* it would wait for ever */
	CHECK(deanon(fd, p, 2 * n, 0) == EINVAL && got_done == n && got.retried);
	alarm(0);
	CHECK(same(p, n, 5, 0) && file_same(fd, 0, n, 5, 0));
	close(uffd);
	close(pipes[1]);
	child_ok(pid);
}

/* What moved present, whole huge pages too, can be swapped out afterwards */
static void t_swappable(void)
{
	size_t n = 8 * MB;

	for (int huge = 0; huge < 2; huge++) {
		char *p = memory(n, huge), *q;
		int fd = memfd();
		long before;

		fill(p, n, huge);
		CHECK(!deanon(fd, p, n, KERNELZERO_HUGE) && got.moved == n / PS && !munmap(p, n));
		/* aligned: madvise() leaves huge pages alone that are mapped in part */
		q = mmap((void *)(1UL << 40), n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, got_offset);
		CHECK(q != MAP_FAILED && same(q, n, huge, 0));
		before = field("/proc/meminfo", "SwapFree");
		CHECK(!madvise(q, n, MADV_PAGEOUT));
		CHECK(field("/proc/meminfo", "SwapFree") < before - (long)n / 2048);
		CHECK(same(q, n, huge, 0) && !munmap(q, n) && !close(fd));
	}
}

/* swapoff finds the entries in the file: the file is on shmem's list of swapped inodes */
static void t_swapoff(void)
{
	size_t n = 8 * MB;
	char *p = memory(n, 0);
	int fd = memfd();

	fill(p, n, 1);
	CHECK(!madvise(p, n, MADV_PAGEOUT) && !deanon(fd, p, n, 0) && got.swapped > n / PS / 2);
	CHECK(!munmap(p, n) && !swapoff("/dev/zram0"));
	CHECK(file_same(fd, 0, n, 1, 0) && !swapon("/dev/zram0", 0));
}

/*
 * A huge page swapped out whole stays one folio in the swap cache while it is being written.
 * Shmem would look for it forever if its entries went into the file one by one.
 */
static void t_swapped_huge(void)
{
	size_t n = 4 * HUGE;
	int fd = memfd();
	char *p = memory(n, 1);

	CHECK(!swapoff("/dev/zram0"));
	put("/sys/block/vda/queue/rotational", "0"); /* else huge pages are split for swap */
	CHECK(!swapon("/dev/vda", 0));
	for (int round = 0; round < 3; round++) {
		fill(p, n, round);
		CHECK(!madvise(p, n, MADV_PAGEOUT) && pages_with(p, n, PM_SWAPPED) == (long)(n / PS));
		if (round == 1)
			usleep(300000); /* partly written */
		CHECK(!deanon(fd, p + round * 5 * PS, n - round * 9 * PS, round ? 0 : KERNELZERO_HUGE));
		CHECK(round || got.retried); /* nothing was written yet: it had to be faulted in */
		CHECK(file_same(fd, got_offset, n - round * 9 * PS, round, round * 5 * PS));
		CHECK(same(p, n, round, 0) && !munmap(p, n));
		p = memory(n, 1);
	}
	close(fd);
	CHECK(!swapoff("/dev/vda") && !swapon("/dev/zram0", 0));
}

/* On a disk: entries whose page is being written, being read, or in the swap cache */
static void t_swapped_disk(void)
{
	size_t n = 4 * MB;
	int fd = memfd();
	volatile char sum = 0;
	char *p = memory(n, 0);

	CHECK(!swapoff("/dev/zram0") && !swapon("/dev/vda", 0));
	for (int round = 0; round < 4; round++) {
		fill(p, n, round);
		CHECK(!madvise(p, n, MADV_PAGEOUT));
		if (round & 1)
			sleep(1);
		for (size_t i = 0; i < n && round & 2; i += 64 * PS)
			sum += p[i]; /* reads some back, with readahead */
		CHECK(!deanon(fd, p, n, 0) && got.swapped + got.moved + got.copied == n / PS);
		CHECK(round != 1 || got.swapped > n / PS / 2);
		CHECK(file_same(fd, got_offset, n, round, 0) && same(p, n, round, 0) && !munmap(p, n));
		p = memory(n, 0);
	}
	close(fd);
	CHECK(!swapoff("/dev/vda") && !swapon("/dev/zram0", 0));
}

const struct group swap_groups[] = {
	{ "swapped", t_swapped, FAST | FULL | SWAP },
	{ "swapped_shared", t_swapped_shared, FAST | FULL | SWAP },
	{ "swapped_window", t_swapped_window, FAST | FULL },
	{ "swappable", t_swappable, FAST | FULL | SWAP },
	{ "swapoff", t_swapoff, FULL | SWAP },
	{ "swapped_huge", t_swapped_huge, FAST | FULL | SWAP },
	{ "swapped_disk", t_swapped_disk, FULL | SWAP },
	{ NULL, NULL, 0 },
};
