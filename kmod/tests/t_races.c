// SPDX-License-Identifier: GPL-2.0
/* Others at work during the call: writers, readers of the file, callers, killers, exec, collapse. */
#include "kz.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

static volatile int stop;
static char *volatile shared_at;
static volatile int shared_fd;

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

static void *reader(void *arg)
{
	struct stat st;
	char *map = mmap(0, *(size_t *)arg, PROT_READ, MAP_SHARED, shared_fd, 0);
	off_t seen = 0;

	CHECK(map != MAP_FAILED);
	while (!stop || seen < st.st_size) {
		CHECK(!fstat(shared_fd, &st) && st.st_size >= seen);
		if (st.st_size > seen && !same(map + seen, st.st_size - seen, 1, seen))
			return (void *)1;
		seen = st.st_size;
	}
	munmap(map, *(size_t *)arg);
	return NULL;
}

/* What a consumer finds below the file's size is there: no zeros first, and the bytes later */
static void t_racing_reader(void)
{
	size_t n = 48 * MB;
	void *wrong;
	pthread_t thread;

	for (int huge = 0; huge < 2; huge++) {
		int fd = shared_fd = memfd();
		char *p = memory(n, huge);

		fill(p, n, 1);
		stop = 0;
		CHECK(!pthread_create(&thread, NULL, reader, &n));
		for (size_t i = 0; i < n; i += n / 3)
			CHECK(!deanon(fd, p + i, n / 3, KERNELZERO_HUGE));
		stop = 1;
		CHECK(!pthread_join(thread, &wrong) && !wrong);
		munmap(p, n);
		close(fd);
	}
}

static void *size_watcher(void *arg)
{
	struct stat st = { 0 };

	(void)arg;
	while (!stop && !st.st_size)
		CHECK(!fstat(shared_fd, &st));
	return (void *)st.st_size;
}

/* A file sealed against shrinking does not: a range that fails after its first edge was never seen */
static void t_racing_size(void)
{
	char *p = memory(4 * PS, 0);
	pthread_t thread;
	void *seen;

	shared_fd = memfd();
	fill(p, 4 * PS, 1);
	CHECK(!madvise(p + PS, PS, MADV_DONTDUMP) && !fcntl(shared_fd, F_ADD_SEALS, F_SEAL_SHRINK));
	stop = 0;
	CHECK(!pthread_create(&thread, NULL, size_watcher, NULL));
	for (int i = 0; i < 2000; i++)
		CHECK(deanon(shared_fd, p + 5, 3 * PS, 0) == EINVAL && !got_done);
	stop = 1;
	CHECK(!pthread_join(thread, &seen) && !seen && same(p, 4 * PS, 1, 0));
}

static volatile int signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

/* Signals that do not kill do not end the call either, wherever they come */
static void t_signals(void)
{
	size_t n = 48 * MB;
	struct sigaction action = { .sa_handler = count_signal };
	struct itimerval often = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	char *p = memory(n, 0), c;
	int fd = memfd(), pipes[2], during;
	pid_t pid;

	fill(p, n, 4);
	CHECK(!madvise(p + n / 3, n / 3, MADV_PAGEOUT) && !madvise(p, n / 3, MADV_DONTFORK) && !pipe(pipes));
	pid = fork(); /* shares the rest */
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) != 0);
	}
	CHECK(!madvise(p, n / 3, MADV_DOFORK) && !sigaction(SIGALRM, &action, NULL));
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	signals = 0;
	CHECK(!deanon(fd, p, n, 0));
	during = signals;
	CHECK(!setitimer(ITIMER_REAL, &never, NULL) && during && got.moved && got.copied && got.retried);
	CHECK(same(p, n, 4, 0) && file_same(fd, 0, n, 4, 0));
	close(pipes[1]);
	child_ok(pid);
}

static void *collapser(void *arg)
{
	size_t n = *(size_t *)arg;
	char *map = mmap((void *)(1UL << 40), n, PROT_READ, MAP_SHARED | MAP_FIXED, shared_fd, 0);
	volatile char sum = 0;
	long collapsed = 0;
	struct stat st;

	CHECK(map != MAP_FAILED);
	for (size_t i = 0; !stop; i = (i + HUGE) % n) {
		CHECK(!fstat(shared_fd, &st));
		if ((off_t)i >= st.st_size)
			continue;
		sum += map[i]; /* it succeeds only where there is a page table */
		collapsed += !madvise(map + i, HUGE, MADV_COLLAPSE);
	}
	munmap(map, n);
	return (void *)collapsed;
}

/* A consumer makes huge pages of the file, over its end too, while ranges are appended */
static void t_racing_collapse(void)
{
	size_t n = 16 * HUGE, step = 37 * PS;
	int fd = shared_fd = memfd();
	char *p = memory(n, 0);
	pthread_t thread;
	void *collapsed;
	off_t at[n / step];

	fill(p, n, 2);
	CHECK(!madvise(p, n / 2, MADV_PAGEOUT));
	CHECK(!pthread_create(&thread, NULL, collapser, &n));
	for (size_t i = 0; i < n / step; i++) {
		CHECK(!deanon(fd, p + i * step, step, 0));
		at[i] = got_offset;
		usleep(2000);
	}
	usleep(100000);
	stop = 1;
	CHECK(!pthread_join(thread, &collapsed) && collapsed);
	CHECK(same(p, n, 2, 0));
	for (size_t i = 0; i < n / step; i++)
		CHECK(file_same(fd, at[i], step, 2, i * step));
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

	t->err = deanon(t->fd, t->at, t->n, 0);
	t->offset = got_offset;
	return NULL;
}

static void t_concurrent(void)
{
	size_t n = 8 * MB;

	/* two ranges into one file; one range into two files; ranges that overlap by half */
	for (int mode = 0; mode < 3; mode++) {
		char *p = memory(2 * n, 0);
		int fd = memfd();
		struct twin t[2] = { { fd, 0, p, n, 0 }, { mode == 1 ? memfd() : fd, 0, p + n, n, 0 } };
		pthread_t thread[2];

		t[1].at -= mode * n / 2 + (mode == 1) * n / 2;
		fill(p, 2 * n, 1);
		for (int i = 0; i < 2; i++)
			CHECK(!pthread_create(&thread[i], NULL, twin, &t[i]));
		for (int i = 0; i < 2; i++)
			CHECK(!pthread_join(thread[i], NULL));
		CHECK(same(p, 2 * n, 1, 0));
		if (mode) /* the second one met a file's mapping */
			CHECK((!t[0].err && t[1].err == EINVAL) || (t[0].err == EINVAL && !t[1].err) ||
			      (t[0].err == EINVAL && t[1].err == EINVAL));
		for (int i = 0; i < 2; i++)
			CHECK(t[i].err || file_same(t[i].fd, t[i].offset, n, 1, t[i].at - p));
		munmap(p, 2 * n);
	}
}

/* What a killed or exec'ing caller got into the file is whole pages, counted right */
static void check_remains(int fd)
{
	struct stat st;
	off_t end;

	CHECK(!fstat(fd, &st));
	end = lseek(fd, 0, SEEK_HOLE);
	CHECK(end <= 0 || file_same(fd, 0, end, 2, 0));
	CHECK(st.st_blocks == (end < 0 ? 0 : end) / 512 && st.st_size == (end < 0 ? 0 : end));
}

static void t_killed(void)
{
	int partly = 0;

	for (int round = 0; round < 12; round++) {
		int fd = memfd(), pidfd;
		size_t n = 64 * MB;
		struct stat st = { 0 };
		pid_t pid = fork();

		if (!pid) {
			char *p = memory(n, round & 1);

			fill(p, n, 2);
			deanon(fd, p, n, 0);
			pause();
		}
		while (!st.st_size)
			CHECK(!fstat(fd, &st) && !usleep(200));
		usleep(round * 500);
		pidfd = syscall(SYS_pidfd_open, pid, 0);
		kill(pid, SIGKILL);
		if (round & 2) /* what the OOM reaper does */
			syscall(SYS_process_mrelease, pidfd, 0);
		CHECK(waitpid(pid, NULL, 0) == pid && !fstat(fd, &st) && !close(pidfd));
		partly += st.st_size < (off_t)n;
		check_remains(fd);
		close(fd);
	}
	CHECK(partly);
}

static void *caller(void *arg)
{
	deanon(shared_fd, shared_at, *(size_t *)arg, 0);
	return NULL;
}

/* Another thread execs, or exits, during the call */
static void t_exec(void)
{
	size_t n = 32 * MB;

	for (int round = 0; round < 4; round++) {
		int fd = shared_fd = memfd();
		pid_t pid = fork();

		if (!pid) {
			struct stat st = { 0 };
			pthread_t thread;

			shared_at = memory(n, round & 1);
			fill(shared_at, n, 2);
			CHECK(!pthread_create(&thread, NULL, caller, &n));
			while (!st.st_size)
				CHECK(!fstat(fd, &st));
			if (round & 2)
				_exit(0);
			execl("/bin/busybox", "true", NULL);
			_exit(1);
		}
		child_ok(pid);
		check_remains(fd);
		close(fd);
	}
}

const struct group race_groups[] = {
	{ "racing_writer", t_racing_writer, FULL },
	{ "racing_reader", t_racing_reader, FULL },
	{ "racing_size", t_racing_size, FAST | FULL },
	{ "signals", t_signals, FULL },
	{ "racing_collapse", t_racing_collapse, FULL },
	{ "concurrent", t_concurrent, FAST | FULL },
	{ "killed", t_killed, FULL },
	{ "exec", t_exec, FULL },
	{ NULL, NULL, 0 },
};
