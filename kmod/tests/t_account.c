// SPDX-License-Identifier: GPL-2.0
/* Limits and accounting: full file systems, commit limits, map counts, memory cgroups. */
#include "kz.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/swap.h>

static void t_no_space(void)
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
	CHECK(same(p, n, 8, 0));
}

/* Full after the first chunk: the file keeps what moved, memory keeps everything */
static void t_full_later(void)
{
	size_t n = 40 * MB; /* chunks of 16 MiB */
	char *p = memory(n, 0);
	int fd = open("/medium/f", O_RDWR | O_CREAT, 0600);
	struct stat st;

	unlink("/medium/f");
	fill(p, n, 1);
	CHECK(deanon(fd, p, n, 0) == ENOSPC && got_done == 32 * MB && !fstat(fd, &st));
	CHECK(st.st_size == 32 * MB && st.st_blocks == 32 * MB / 512);
	CHECK(same(p, n, 1, 0) && file_same(fd, 0, 32 * MB, 1, 0));
}

static void strict_overcommit(long spare_kb)
{
	char kb[32];

	snprintf(kb, sizeof(kb), "%ld", field("/proc/meminfo", "Committed_AS") + spare_kb);
	put("/proc/sys/vm/overcommit_kbytes", kb);
	put("/proc/sys/vm/overcommit_memory", "2");
}

static void t_overcommit(void)
{
	size_t n = 32 * MB;
	char *p = memory(n, 0);
	int fd = memfd(), err;

	fill(p, n, 9);
	CHECK(!swapoff("/dev/zram0")); /* swap would count towards the limit */
	strict_overcommit(4096);
	err = deanon(fd, p, n, 0);
	put("/proc/sys/vm/overcommit_memory", "0");
	CHECK(err == ENOSPC && same(p, n, 9, 0));
	strict_overcommit(n / 1024 + 8192);
	err = deanon(fd, p, n, 0);
	put("/proc/sys/vm/overcommit_memory", "0");
	CHECK(!err && same(p, n, 9, 0) && file_same(fd, 0, n, 9, 0) && !swapon("/dev/zram0", 0));
}

enum { ANON, SHMEM, COMMITTED, COUNTERS };

static long read_counter(int which)
{
	static const char *const names[] = { "AnonPages", "Shmem", "Committed_AS" };

	return field("/proc/meminfo", names[which]) / 1024;
}

static void read_counters(long mb[COUNTERS])
{
	for (int i = 0; i < COUNTERS; i++)
		mb[i] = read_counter(i);
}

static int near(const long mb[COUNTERS], const long before[COUNTERS], int anon, int shmem, int committed)
{
	const long slack = 3; /* counts are in batches per CPU */

	return labs(mb[ANON] - before[ANON] - anon) <= slack && labs(mb[SHMEM] - before[SHMEM] - shmem) <= slack &&
	       labs(mb[COMMITTED] - before[COMMITTED] - committed) <= slack;
}

static struct {
	long before[COUNTERS];
	int fd;
	volatile int stop;
} watched;

/*
 * During the call a page is one or the other, but for those of one chunk, which are charged ahead.
 * Chunks go by while one thing is read after the other; but each only grows, or only shrinks. So what
 * AnonPages was when Shmem was read lies between what it was before and after that.
 */
static void *watch_counters(void *arg)
{
	const long both = watched.before[ANON] + watched.before[SHMEM], chunk = 16;
	long anon, shmem, most = 0;
	struct stat st, later;

	(void)arg;
	while (!watched.stop) {
		CHECK(!fstat(watched.fd, &st) && !fstat(watched.fd, &later));
		CHECK(st.st_blocks * 512 >= st.st_size && st.st_blocks * 512 <= later.st_size + chunk * (long)MB);
		anon = read_counter(ANON);
		shmem = read_counter(SHMEM);
		CHECK(anon + shmem >= both - chunk - 3 && read_counter(ANON) + shmem <= both + 3);
		CHECK(read_counter(COMMITTED) - watched.before[COMMITTED] <= 48 + 3);
		most = shmem > most ? shmem : most;
	}
	return (void *)(most - watched.before[SHMEM]);
}

static void *no_work(void *arg)
{
	return arg;
}

/* What the system counts before, during and after a call, and when the mapping and the file go */
static void t_counters(void)
{
	const int n = 48;
	long mb[COUNTERS];
	pthread_t thread;
	struct stat st;
	void *most;
	char *p;

	for (int huge = 0; huge < 2; huge++) {
		watched.fd = memfd();
		watched.stop = 0;
		CHECK(!pthread_create(&thread, NULL, no_work, NULL) && !pthread_join(thread, NULL)); /* its stack stays */
		p = memory(n * MB, huge);
		fill(p, n * MB, huge);
		read_counters(watched.before);
		CHECK(!pthread_create(&thread, NULL, watch_counters, NULL));
		CHECK(!deanon(watched.fd, p, n * MB, KERNELZERO_HUGE) && got.moved == n * MB / PS);
		watched.stop = 1;
		CHECK(!pthread_join(thread, &most) && (long)most <= n + 3);
		read_counters(mb);
		CHECK(near(mb, watched.before, -n, n, n)); /* the private mapping is committed as well */
		CHECK(!fstat(watched.fd, &st) && st.st_blocks == n * (long)MB / 512);
		munmap(p, n * MB);
		read_counters(mb);
		CHECK(near(mb, watched.before, -n, n, 0));
		close(watched.fd);
		read_counters(mb);
		CHECK(near(mb, watched.before, -n, 0, -n));
	}
}

/* do_mmap() that may not split the mapping fails before it unmaps anything */
static void t_map_count(void)
{
	size_t n = 64 * PS;
	char *p = memory(n, 0), count[16];
	int fd = memfd(), maps = 0, err;
	struct stat st;
	FILE *f = fopen("/proc/self/maps", "r");

	for (int c; (c = fgetc(f)) != EOF;)
		maps += c == '\n';
	fill(p, n, 1);
	snprintf(count, sizeof(count), "%d", maps - 2);
	put("/proc/sys/vm/max_map_count", count);
	err = deanon(fd, p + 9 * PS, n - 20 * PS, 0);
	put("/proc/sys/vm/max_map_count", "65530");
	CHECK(err == ENOMEM && !got_done && same(p, n, 1, 0));
	CHECK(!fstat(fd, &st) && !st.st_size && !st.st_blocks);
	CHECK(!deanon(fd, p + 9 * PS, n - 20 * PS, 0) && same(p, n, 1, 0));
}

static long cgroup_stat(const char *v2, const char *v1)
{
	return field("/cg/t/memory.stat", access("/cg/t/memory.max", F_OK) ? v1 : v2);
}

/* The charge stays with the group whose memory it was, and goes when the file goes */
static void t_charged(void)
{
	size_t n = 16 * MB;
	int fd = memfd(), pipes[2];
	pid_t pid;
	char *p, c;

	new_cgroup();
	enter_cgroup("max");
	p = memory(n, 0);
	fill(p, n, 3);
	CHECK(!deanon(fd, p, n, 0));
	sleep(3); /* statistics are flushed every two seconds */
	CHECK(labs(cgroup_stat("shmem", "shmem") - (long)n) < (long)MB);
	CHECK(cgroup_stat("anon", "rss") < (long)(4 * MB));
	munmap(p, n);
	p = memory(n, 0); /* copies are charged to the caller's group */
	fill(p, n, 4);
	CHECK(!pipe(pipes));
	pid = fork();
	if (!pid) {
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) != 0);
	}
	CHECK(!deanon(fd, p, n, 0) && got.copied == n / PS);
	sleep(3);
	CHECK(labs(cgroup_stat("shmem", "shmem") - 2 * (long)n) < (long)MB);
	close(pipes[1]);
	child_ok(pid);
	munmap(p, n);
	close(fd);
	sleep(3);
	CHECK(cgroup_stat("shmem", "shmem") < (long)MB);
	leave_cgroup();
}

/* A group without room for the copies: the call fails and loses nothing, or its process is killed */
static void t_memcg_full(void)
{
	size_t n = 24 * MB;
	int pipes[2], status;
	pid_t holder, caller;
	char *p, c;

	new_cgroup();
	enter_cgroup("max");
	p = memory(n, 0);
	fill(p, n, 3);
	CHECK(!pipe(pipes));
	leave_cgroup(); /* the limit is for the caller alone */
	holder = fork();
	if (!holder) {
		close(pipes[1]);
		CHECK(!read(pipes[0], &c, 1));
		_exit(!same(p, n, 3, 0));
	}
	caller = fork();
	if (!caller) {
		int fd = memfd(), err;

		if (!access("/cg/t/memory.swap.max", F_OK))
			put("/cg/t/memory.swap.max", "0");
		else
			put("/cg/t/memory.swappiness", "0");
		enter_cgroup("30M");
		err = deanon(fd, p, n, 0);
		CHECK(err == ENOMEM || err == EINTR);
		_exit(!same(p, n, 3, 0));
	}
	CHECK(waitpid(caller, &status, 0) == caller);
	CHECK(!status || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
	CHECK(same(p, n, 3, 0));
	close(pipes[1]);
	child_ok(holder);
}

const struct group account_groups[] = {
	{ "no_space", t_no_space, FAST | FULL },
	{ "full_later", t_full_later, FULL },
	{ "overcommit", t_overcommit, FAST | FULL },
	{ "counters", t_counters, FAST | FULL },
	{ "map_count", t_map_count, FAST | FULL },
	{ "charged", t_charged, FULL | MEMCG },
	{ "memcg_full", t_memcg_full, FULL | MEMCG },
	{ NULL, NULL, 0 },
};
