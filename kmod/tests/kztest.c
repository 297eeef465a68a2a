// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of /dev/kernelzero; runs as root in the guest that run.py boots.
 *
 *     kztest fast|full SEED
 *
 * Every group runs in a process of its own and prints 'ok NAME' or 'FAILED NAME'. What is in
 * memory and in the file is compared with a pattern computed anew from seed and position;
 * accounting is compared with /proc and fstat. Afterwards Shmem and AnonPages must be back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernelzero_uapi.h"

#define PS 4096UL
#define MB (1UL << 20)
#define HUGE (2 * MB)

static int dev;
static unsigned long seed;

#define CHECK(c)                                                                                             \
	do {                                                                                                 \
		if (!(c)) {                                                                                  \
			printf("  line %d: %s (errno %d)\n", __LINE__, #c, errno);                           \
			exit(1);                                                                             \
		}                                                                                            \
	} while (0)

/* ---- helpers ---------------------------------------------------------------------------- */

static unsigned char pattern(unsigned s, size_t i)
{
	return (unsigned char)((i * 31 + (i >> 12) * 7 + s * 101) % 251 + 1); /* never 0 */
}

static void fill(void *at, size_t n, unsigned s)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)at)[i] = pattern(s, i);
}

/* n bytes of the pattern, the first of which is number skip of what fill() wrote */
static int same(const void *at, size_t n, unsigned s, size_t skip)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)at)[i] != pattern(s, skip + i))
			return 0;
	return 1;
}

static int file_same(int fd, off_t offset, size_t n, unsigned s, size_t skip)
{
	char *copy = malloc(n);
	int ok = pread(fd, copy, n, offset) == (ssize_t)n && same(copy, n, s, skip);

	free(copy);
	return ok;
}

static int file_zero(int fd, off_t offset, size_t n)
{
	for (char c; n; n--, offset++)
		if (pread(fd, &c, 1, offset) != 1 || c)
			return 0;
	return 1;
}

/* Anonymous memory, aligned to 2 MiB, with or without huge pages */
static char *memory(size_t n, int huge)
{
	char *raw = mmap(0, n + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = (char *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));

	CHECK(raw != MAP_FAILED);
	munmap(raw, p - raw);
	munmap(p + n, raw + HUGE - p);
	CHECK(!madvise(p, n, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	return p;
}

static int memfd(void)
{
	int fd = memfd_create("kz", MFD_ALLOW_SEALING);

	CHECK(fd >= 0);
	return fd;
}

static struct kernelzero_counts got;
static unsigned got_ranges;

static int call(int fd, struct kernelzero_range *r, unsigned nr, unsigned flags)
{
	struct kernelzero_deanon d = {
		.size = sizeof(d), .fd = fd, .flags = flags, .nr_ranges = nr, .ranges = (uintptr_t)r
	};
	int err = ioctl(dev, KERNELZERO_DEANON, &d) ? errno : 0;

	got = d.counts;
	got_ranges = d.ranges_done;
	return err;
}

static off_t got_offset;

static int deanon(int fd, void *at, size_t n, unsigned flags)
{
	struct kernelzero_range r = { .addr = (uintptr_t)at, .len = n };
	int err = call(fd, &r, 1, flags);

	got_offset = r.offset;
	return err;
}

static long field(const char *file, const char *name)
{
	FILE *f = fopen(file, "r");
	char line[256];
	long value = -1;

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && strchr(": ", line[strlen(name)]))
			value = atol(line + strlen(name) + 1);
	fclose(f);
	return value;
}

static void put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void child_ok(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* ---- groups ------------------------------------------------------------------------------ */

static void t_query(void)
{
	struct kernelzero_query q = { .size = sizeof(q) };
	struct {
		struct kernelzero_query q;
		long more;
	} longer = { { .size = sizeof(longer) }, 0 };

	CHECK(!ioctl(dev, KERNELZERO_QUERY, &q) && q.version == KERNELZERO_VERSION && q.page_size == PS);
	CHECK(!ioctl(dev, KERNELZERO_QUERY, &longer) && longer.q.max_ranges == q.max_ranges);
	longer.more = 1;
	CHECK(ioctl(dev, KERNELZERO_QUERY, &longer) && errno == E2BIG);
	q = (struct kernelzero_query){ .size = 8, .page_size = 77 };
	CHECK(!ioctl(dev, KERNELZERO_QUERY, &q) && q.version == KERNELZERO_VERSION && q.page_size == 77);
	q.size = 0;
	CHECK(ioctl(dev, KERNELZERO_QUERY, &q) && errno == EINVAL);
	CHECK(ioctl(dev, _IO('Z', 9), &q) && errno == ENOTTY);
	CHECK(ioctl(dev, KERNELZERO_QUERY, NULL) && errno == EFAULT);
}

static void t_arguments(void)
{
	char *p = memory(16 * PS, 0), *ro;
	int fd = memfd(), file;
	struct kernelzero_range r = { .addr = (uintptr_t)p, .len = 16 * PS };
	struct kernelzero_deanon d = { .size = sizeof(d), .fd = fd, .nr_ranges = 1, .ranges = (uintptr_t)&r };
	struct stat st;

	fill(p, 16 * PS, 1);
	CHECK(deanon(fd, p, 0, 0) == EINVAL);
	CHECK(deanon(fd, p, -1UL, 0) == EINVAL);
	CHECK(deanon(fd, (void *)-PS, PS, 0) == EINVAL);
	CHECK(deanon(fd, p, PS, 2) == EINVAL);
	CHECK(deanon(fd, (void *)PS, 2 * PS, 0) == ENOMEM);
	CHECK(deanon(fd, (void *)(PS + 5), 10, 0) == EFAULT);
	CHECK(deanon(999, p, PS, 0) == EBADF);
	CHECK(deanon(dev, p, PS, 0) == EINVAL);
	d.reserved = 1;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EINVAL);
	d.reserved = 0;
	d.size = 24;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EINVAL);
	d.size = sizeof(d);
	d.ranges = 8;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EFAULT);
	file = open("/init", O_RDONLY);
	CHECK(deanon(file, p, PS, 0) != 0);
	file = open("/small/readonly", O_RDONLY | O_CREAT, 0600);
	CHECK(deanon(file, p, PS, 0) == EBADF);
	unlink("/small/readonly");
	ro = mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(deanon(fd, ro, PS, 0) == EINVAL);
	ro = memory(2 * PS, 0);
	CHECK(!mlock(ro, 2 * PS) && deanon(fd, ro, 2 * PS, 0) == EINVAL);
	CHECK(same(p, 16 * PS, 1, 0) && !fstat(fd, &st) && !st.st_size && !st.st_blocks);
}

/* Plain pages or whole huge pages: contents, privacy of later writes, accounting */
static void present(int huge)
{
	size_t n = 16 * MB;
	int fd = memfd();
	char *p = memory(n, huge), *q;
	long shmem = field("/proc/meminfo", "Shmem"), rss;
	struct stat st;
	pid_t pid;

	fill(p, n, 3);
	rss = field("/proc/self/status", "VmRSS");
	CHECK(!deanon(fd, p, n, KERNELZERO_HUGE));
	CHECK(got.moved == n / PS && !got.copied && !got.holes && got.moved_huge == (huge ? n / PS : 0));
	CHECK(!fstat(fd, &st) && st.st_size == (off_t)(got_offset + n) && st.st_blocks == (long)n / 512);
	CHECK(labs(field("/proc/meminfo", "Shmem") - shmem - (long)n / 1024) < 1024);
	CHECK(field("/proc/self/status", "VmRSS") < rss - (long)n / 1024 + 512);
	CHECK(same(p, n, 3, 0));
	printf("  rss %ld then %ld\n", rss, field("/proc/self/status", "VmRSS"));
	CHECK(labs(field("/proc/self/status", "VmRSS") - rss) < 1024);
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

static void t_edges(void)
{
	char *p = memory(8 * PS, 0);
	int fd = memfd();

	fill(p, 8 * PS, 5);
	CHECK(!deanon(fd, p + 100, 5 * PS, 0));
	CHECK(got_offset == 100 && got.moved == 4 && got.copied == 2);
	CHECK(file_same(fd, 100, 5 * PS, 5, 100) && file_zero(fd, 0, 100));
	CHECK(!ftruncate(fd, 6 * PS) && file_zero(fd, 100 + 5 * PS, PS - 100));
	CHECK(!deanon(fd, p + 7 * PS + 9, 20, 0)); /* inside one page */
	CHECK(got_offset == (off_t)(6 * PS + 9) && got.copied == 1 && !got.moved);
	CHECK(file_same(fd, got_offset, 20, 5, 7 * PS + 9) && file_zero(fd, 6 * PS, 9));
	CHECK(!deanon(fd, p + 6 * PS - 3, 6, 0)); /* across two */
	CHECK(got.copied == 2 && file_same(fd, got_offset, 6, 5, 6 * PS - 3));
	CHECK(same(p, 8 * PS, 5, 0));
}

static void t_ranges(void)
{
	enum { N = 1000 };
	static struct kernelzero_range r[N];
	char *p = memory(N * 4 * PS, 0);
	int fd = memfd();

	fill(p, N * 4 * PS, 6);
	for (int i = 0; i < N; i++)
		r[i] = (struct kernelzero_range){ .addr = (uintptr_t)p + i * 4 * PS, .len = 2 * PS + i };
	CHECK(!call(fd, r, N, KERNELZERO_HUGE) && got_ranges == N && got.moved == 2 * N);
	for (int i = 0; i < N; i++)
		CHECK(r[i].done == r[i].len && file_same(fd, r[i].offset, r[i].len, 6, i * 4 * PS));
	CHECK(same(p, N * 4 * PS, 6, 0));

	p = memory(4 * PS, 0); /* the second of three cannot: the first is done, the third is not */
	fill(p, 4 * PS, 7);
	r[0] = r[2] = (struct kernelzero_range){ .addr = (uintptr_t)p, .len = PS };
	r[1] = (struct kernelzero_range){ .addr = PS, .len = PS };
	r[2].addr += 2 * PS;
	CHECK(call(fd, r, 3, 0) == ENOMEM && got_ranges == 1 && r[0].done == PS && !r[1].done && !r[2].done);
	CHECK(file_same(fd, r[0].offset, PS, 7, 0) && same(p, 4 * PS, 7, 0));
}

static void t_holes(void)
{
	size_t pages = 512;
	char *p = memory(pages * PS, 0);
	volatile char *zero = p + PS;
	int fd = memfd();
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
	int status;
	wait(&status);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void t_swapped(void)
{
	size_t n = 8 * MB;
	char *p = memory(n, 0), *q;
	int fd = memfd();
	long before;

	fill(p, n, 8);
	CHECK(!madvise(p, n, MADV_PAGEOUT));
	before = field("/proc/self/status", "VmSwap");
	CHECK(before > (long)n / 2048);
	CHECK(!deanon(fd, p, n, 0) && got.swapped * 4 >= (unsigned long)before - 64);
	CHECK(got.swapped + got.moved + got.copied == n / PS);
	CHECK(same(p, n, 8, 0) && file_same(fd, 0, n, 8, 0));
	q = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* moved pages stay swappable */
	CHECK(same(q, n, 8, 0) && !munmap(p, n));
	before = field("/proc/meminfo", "SwapFree");
	CHECK(!madvise(q, n, MADV_PAGEOUT) && field("/proc/meminfo", "SwapFree") < before - (long)n / 4096);
	CHECK(same(q, n, 8, 0));
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
}

static void t_pinned(void)
{
	char *p = memory(16 * PS, 0), back[4 * PS];
	int fd = memfd(), pipes[2];
	struct iovec v = { p, 4 * PS };

	fill(p, 16 * PS, 2);
	CHECK(!pipe(pipes) && vmsplice(pipes[1], &v, 1, 0) == (ssize_t)(4 * PS));
	CHECK(!deanon(fd, p, 16 * PS, 0) && got.copied == 4 && got.moved == 12);
	fill(p, 16 * PS, 3);
	CHECK(read(pipes[0], back, sizeof(back)) == sizeof(back) && same(back, sizeof(back), 2, 0));
	CHECK(file_same(fd, 0, 16 * PS, 2, 0));
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
}

static void t_lazyfree(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0);
	int fd = memfd();

	fill(p, n, 6);
	CHECK(!madvise(p, n, MADV_FREE) && !deanon(fd, p, n, 0));
	CHECK(got.moved + got.copied + got.holes == n / PS);
	for (size_t i = 0; i < n; i += PS) /* either kept or freed, and the same on both sides */
		CHECK(p[i] ? same(p + i, PS, 6, i) && file_same(fd, i, PS, 6, i) : file_zero(fd, i, PS));
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
	for (int i = 0; i < 100 && field("/sys/kernel/mm/ksm/pages_sharing", "") < 0; i++)
		usleep(100000);
	sleep(2);
	CHECK(!deanon(fd, p, n, 0) && got.copied);
	put("/sys/kernel/mm/ksm/run", "2");
	for (size_t i = 0; i < n; i += PS)
		CHECK(same(p + i, PS, i / PS % 4, 0) && file_same(fd, i, PS, i / PS % 4, 0));
}

static void t_seals(void)
{
	char *p = memory(4 * PS, 0), c = 1;
	int fd = memfd(), reader;
	char path[64];

	fill(p, 4 * PS, 7);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!deanon(fd, p, 4 * PS, 0) && got.moved == 4);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDWR);
	CHECK(pwrite(reader, &c, 1, 0) < 0 && ftruncate(reader, 0) < 0 && ftruncate(reader, 8 * PS) < 0);
	CHECK(mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED);
	p[0] = 99;
	CHECK(file_same(fd, 0, 4 * PS, 7, 0));
}

static void t_full(void)
{
	size_t n = 8 * MB;
	char *p = memory(n, 0);
	int fd = open("/small/f", O_RDWR | O_CREAT, 0600);
	struct stat st;
	struct rlimit limit = { MB, MB };

	unlink("/small/f");
	fill(p, n, 8);
	CHECK(deanon(fd, p, n, 0) == ENOSPC && same(p, n, 8, 0));
	CHECK(!fstat(fd, &st) && !st.st_size && !st.st_blocks);
	CHECK(deanon(fd, p + 5, n - 9, 0) == ENOSPC && !fstat(fd, &st) && !st.st_size && !st.st_blocks);
	CHECK(!deanon(fd, p, 3 * MB, 0) && file_same(fd, 0, 3 * MB, 8, 0));
	CHECK(deanon(fd, p + 3 * MB, 3 * MB, 0) == ENOSPC && same(p, n, 8, 0));
	CHECK(!fstat(fd, &st) && st.st_size == 3 * MB && st.st_blocks == 3 * MB / 512);
	fd = memfd();
	signal(SIGXFSZ, SIG_IGN);
	CHECK(!setrlimit(RLIMIT_FSIZE, &limit) && deanon(fd, p + 3 * MB, 2 * MB, 0) == EFBIG);
}

static void t_overcommit(void)
{
	size_t n = 32 * MB;
	char *p = memory(n, 0);
	int fd = memfd(), err;
	char kb[32];

	fill(p, n, 9);
	snprintf(kb, sizeof(kb), "%ld", field("/proc/meminfo", "Committed_AS") + 4096);
	put("/proc/sys/vm/overcommit_kbytes", kb);
	put("/proc/sys/vm/overcommit_memory", "2");
	err = deanon(fd, p, n, 0);
	put("/proc/sys/vm/overcommit_memory", "0");
	CHECK(err == ENOSPC || err == ENOMEM);
	CHECK(same(p, n, 9, 0));
}

static volatile int stop;
static char *volatile shared_at;

static void *writer(void *arg)
{
	size_t n = *(size_t *)arg;

	for (unsigned k = 1; !stop; k++)
		for (size_t i = 8; i < n && !stop; i += PS) {
			*(volatile unsigned *)(shared_at + i) = k;
			if (*(volatile unsigned *)(shared_at + i) != k)
				return (void *)1; /* a write was lost */
		}
	return NULL;
}

/* Another thread writes during the call: none of its writes is lost */
static void t_racing_writer(void)
{
	size_t n = 8 * MB;
	void *lost;
	pthread_t thread;

	for (int round = 0; round < 6; round++) {
		int fd = memfd();
		char *p = shared_at = memory(n, round & 1);

		fill(p, n, round);
		stop = 0;
		CHECK(!pthread_create(&thread, NULL, writer, &n));
		usleep(2000);
		CHECK(!deanon(fd, p, n, KERNELZERO_HUGE));
		usleep(2000);
		stop = 1;
		CHECK(!pthread_join(thread, &lost) && !lost);
		for (size_t i = 0; i < n; i += PS)
			CHECK(same(p + i, 8, round, i) && same(p + i + 12, PS - 12, round, i + 12));
		munmap(p, n);
		close(fd);
	}
}

struct twin {
	int fd, err;
	char *at;
	size_t n;
	off_t offset;
};

static void *twin(void *arg)
{
	struct twin *t = arg;
	struct kernelzero_range r = { .addr = (uintptr_t)t->at, .len = t->n };
	struct kernelzero_deanon d = {
		.size = sizeof(d), .fd = t->fd, .nr_ranges = 1, .ranges = (uintptr_t)&r
	};

	t->err = ioctl(dev, KERNELZERO_DEANON, &d) ? errno : 0;
	t->offset = r.offset;
	return NULL;
}

static void t_concurrent(void)
{
	size_t n = 8 * MB;

	for (int mode = 0; mode < 2; mode++) { /* two ranges into one file; one range into two files */
		char *p = memory(2 * n, 0);
		int fd = memfd();
		struct twin t[2] = { { fd, 0, p, n, 0 }, { mode ? memfd() : fd, 0, mode ? p : p + n, n, 0 } };
		pthread_t thread[2];

		fill(p, 2 * n, 1);
		for (int i = 0; i < 2; i++)
			CHECK(!pthread_create(&thread[i], NULL, twin, &t[i]));
		for (int i = 0; i < 2; i++)
			CHECK(!pthread_join(thread[i], NULL));
		CHECK(same(p, 2 * n, 1, 0));
		if (mode) {
			CHECK(!t[0].err || !t[1].err || (t[0].err == EINVAL && t[1].err == EINVAL));
			continue;
		}
		for (int i = 0; i < 2; i++)
			CHECK(!t[i].err && file_same(fd, t[i].offset, n, 1, i * n));
	}
}

static void t_killed(void)
{
	for (int round = 0; round < 8; round++) {
		int fd = memfd();
		size_t n = 32 * MB;
		struct stat st = { 0 };
		pid_t pid = fork();
		off_t end;

		if (!pid) {
			char *p = memory(n, round & 1);

			fill(p, n, 2);
			deanon(fd, p, n, 0);
			pause();
		}
		while (!st.st_size)
			CHECK(!fstat(fd, &st) && !usleep(200));
		usleep(round * 2000);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, NULL, 0) == pid && !fstat(fd, &st));
		end = lseek(fd, 0, SEEK_HOLE);
		CHECK(end <= 0 || file_same(fd, 0, end, 2, 0));
		CHECK(end <= 0 || st.st_blocks == end / 512);
		close(fd);
	}
}

/* The charge stays with the group whose memory it was, and goes when the file goes */
static void t_memcg(void)
{
	size_t n = 16 * MB;
	char *p, pid[16];
	int fd = memfd();

	if (access("/cg/cgroup.subtree_control", F_OK))
		return;
	CHECK(!mkdir("/cg/t", 0755) || errno == EEXIST);
	snprintf(pid, sizeof(pid), "%d", getpid());
	put("/cg/t/cgroup.procs", pid);
	p = memory(n, 0);
	fill(p, n, 3);
	CHECK(!deanon(fd, p, n, 0));
	sleep(3); /* statistics are flushed every two seconds */
	CHECK(field("/cg/t/memory.stat", "shmem") >= (long)(n - MB));
	CHECK(field("/cg/t/memory.stat", "anon") < (long)(4 * MB));
	munmap(p, n);
	close(fd);
	sleep(3);
	CHECK(field("/cg/t/memory.stat", "shmem") < (long)MB);
	put("/cg/cgroup.procs", pid);
}

/* Random ranges of random memory, in processes that fork, unmap and get killed */
static void t_stress(void)
{
	srandom(seed);
	for (int round = 0; round < 150; round++) {
		size_t pages = 1 + random() % 1500, n = pages * PS;
		int fd = memfd(), what = random() % 6;
		char *p = memory(n, random() & 1);
		size_t from = random() % n, len = 1 + random() % (n - from);
		pid_t pid = 0;

		fill(p, n, round);
		if (what == 1)
			CHECK(!madvise(p, n, MADV_PAGEOUT));
		if (what == 2) {
			pid = fork();
			if (!pid) {
				usleep(random() % 20000);
				_exit(!same(p, n, round, 0));
			}
		}
		CHECK(!deanon(fd, p + from, len, random() & 1));
		CHECK(same(p, n, round, 0) && file_same(fd, got_offset, len, round, from));
		if (what == 3)
			CHECK(!madvise(p, n / 2 & ~(PS - 1), MADV_PAGEOUT));
		if (what == 4)
			munmap(p, n / 2 & ~(PS - 1));
		if (pid)
			child_ok(pid);
		CHECK(file_same(fd, got_offset, len, round, from));
		munmap(p, n);
		close(fd);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
	int fast;
} groups[] = {
	{ "query", t_query, 1 },
	{ "arguments", t_arguments, 1 },
	{ "present", t_present, 1 },
	{ "huge", t_huge, 1 },
	{ "edges", t_edges, 1 },
	{ "ranges", t_ranges, 1 },
	{ "holes", t_holes, 1 },
	{ "swapped", t_swapped, 1 },
	{ "forked", t_forked, 1 },
	{ "pinned", t_pinned, 1 },
	{ "partly_huge", t_partly_huge, 1 },
	{ "seals", t_seals, 1 },
	{ "full", t_full, 1 },
	{ "lazyfree", t_lazyfree, 0 },
	{ "ksm", t_ksm, 0 },
	{ "overcommit", t_overcommit, 0 },
	{ "racing_writer", t_racing_writer, 0 },
	{ "concurrent", t_concurrent, 0 },
	{ "killed", t_killed, 0 },
	{ "memcg", t_memcg, 0 },
	{ "stress", t_stress, 0 },
};

/* A group leaves nothing behind: pages of dead processes go at once, batches within a moment */
static int all_back(long shmem, long anon)
{
	for (int i = 0; i < 50; i++, usleep(100000))
		if (field("/proc/meminfo", "Shmem") <= shmem + 512 &&
		    field("/proc/meminfo", "AnonPages") <= anon + 1024)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0, status;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc != 3)
		return 2;
	seed = strtoul(argv[2], NULL, 0);
	dev = open("/dev/kernelzero", O_RDWR);
	if (dev < 0) {
		perror("/dev/kernelzero");
		return 2;
	}
	for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
		long shmem = field("/proc/meminfo", "Shmem"), anon = field("/proc/meminfo", "AnonPages");
		pid_t pid;

		if (!groups[i].fast && strcmp(argv[1], "full"))
			continue;
		pid = fork();
		if (!pid) {
			groups[i].run();
			exit(0);
		}
		waitpid(pid, &status, 0);
		if (!status && !all_back(shmem, anon)) {
			printf("  memory left behind: Shmem %ld AnonPages %ld\n",
			       field("/proc/meminfo", "Shmem") - shmem,
			       field("/proc/meminfo", "AnonPages") - anon);
			status = -1;
		}
		printf("%s %s\n", status ? "FAILED" : "ok", groups[i].name);
		failed += !!status;
	}
	return !!failed;
}
