// SPDX-License-Identifier: GPL-2.0
/*
 * The random stress. Processes of two threads each work on memory of their own: random writes,
 * calls, forks, pageout, protection, fresh mappings, huge pages and fresh files, compared with a
 * shadow copy all along. Others get killed at random, a cgroup keeps memory short, and a consumer
 * maps, reads, stats and collapses the files. Same seed, same choices (not the same timing).
 */
#include "kz.h"

#include <signal.h>
#include <time.h>

#define REGION (4 * HUGE) /* per thread */
#define RECORDS 64

struct record {
	off_t offset;
	size_t len;
	char *bytes;
};

struct worker {
	uint64_t random;
	char *at, *shadow;
	int fd;
	struct record records[RECORDS];
	unsigned nr_records;
	size_t recorded;
	unsigned long ops, calls, moved, huge, swapped, copied;
};

static time_t until;
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;

static unsigned rnd(struct worker *w, unsigned below)
{
	w->random ^= w->random << 13; /* xorshift64 */
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 11) % below;
}

/* A random range: often pages, sometimes bytes, sometimes huge */
static size_t range(struct worker *w, size_t *from)
{
	size_t unit = rnd(w, 4) ? PS : rnd(w, 2) ? 1 : HUGE;
	size_t units = REGION / unit, n;

	*from = rnd(w, units) * unit;
	n = (1 + rnd(w, rnd(w, 3) ? (64 * PS + unit - 1) / unit : units)) * unit;
	return n < REGION - *from ? n : REGION - *from;
}

static void op_write(struct worker *w)
{
	size_t from, n = range(w, &from);
	char byte = rnd(w, 256);

	memset(w->at + from, byte, n);
	memset(w->shadow + from, byte, n);
}

static void new_file(struct worker *w)
{
	for (unsigned i = 0; i < w->nr_records; i++)
		free(w->records[i].bytes);
	w->nr_records = w->recorded = 0;
	close(w->fd);
	w->fd = memfd();
}

static void op_call(struct worker *w)
{
	size_t from, n = range(w, &from);
	struct record *r = &w->records[w->nr_records];
	int err = deanon(w->fd, w->at + from, n, rnd(w, 2));

	CHECK(!err || err == EINVAL || err == EAGAIN); /* EINVAL: met what is a file's already */
	w->calls++;
	w->moved += got.moved;
	w->huge += got.moved_huge;
	w->swapped += got.swapped;
	w->copied += got.copied;
	if (!got_done)
		return;
	CHECK(got_done <= n && (err || got_done == n));
	*r = (struct record){ got_offset, got_done, malloc(got_done) };
	memcpy(r->bytes, w->shadow + from, got_done);
	w->recorded += got_done;
	if (++w->nr_records == RECORDS || w->recorded > REGION)
		new_file(w);
}

static void op_check_memory(struct worker *w)
{
	size_t from, n = range(w, &from);

	CHECK(!memcmp(w->at + from, w->shadow + from, n));
}

static void op_check_file(struct worker *w)
{
	struct record *r;
	char *bytes;

	if (!w->nr_records)
		return;
	r = &w->records[rnd(w, w->nr_records)];
	bytes = malloc(r->len);
	CHECK(pread(w->fd, bytes, r->len, r->offset) == (ssize_t)r->len && !memcmp(bytes, r->bytes, r->len));
	free(bytes);
}

static void op_fresh(struct worker *w)
{
	size_t from = rnd(w, REGION / PS) * PS, n = rnd(w, 3) ? 64 * PS : REGION;

	n = n < REGION - from ? n : REGION - from;
	CHECK(mmap(w->at + from, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      w->at + from);
	madvise(w->at + from, n, rnd(w, 2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(w->shadow + from, 0, n);
}

static void op_advise(struct worker *w)
{
	static const int advice[] = { MADV_PAGEOUT, MADV_PAGEOUT, MADV_COLD, MADV_COLLAPSE, MADV_HUGEPAGE,
				      MADV_WILLNEED };
	size_t from = rnd(w, REGION / PS) * PS, n = (1 + rnd(w, 512)) * PS;

	/* best effort: some fail on some kinds of memory */
	madvise(w->at + from, n < REGION - from ? n : REGION - from, advice[rnd(w, 6)]);
}

static void op_protect(struct worker *w)
{
	size_t from = rnd(w, REGION / PS) * PS, n = PS;

	CHECK(!mprotect(w->at + from, n, PROT_READ) && *(volatile char *)(w->at + from) == w->shadow[from]);
	CHECK(!mprotect(w->at + from, n, PROT_READ | PROT_WRITE));
}

/* A child sees the memory of its birth, whatever the parent does meanwhile */
static void op_fork(struct worker *w)
{
	size_t from, n = range(w, &from);
	pid_t pid;

	pthread_mutex_lock(&fork_lock);
	pid = fork();
	if (!pid) {
		usleep(rnd(w, 3000));
		if (memcmp(w->at + from, w->shadow + from, n))
			_exit(1);
		deanon(w->fd, w->at + from, n, 0); /* the same file, from two processes */
		_exit(!!memcmp(w->at + from, w->shadow + from, n));
	}
	pthread_mutex_unlock(&fork_lock);
	op_call(w);
	op_write(w);
	child_ok(pid);
}

/* A caller killed at some point of a call of its own */
static void op_kill(struct worker *w)
{
	unsigned pause_us = rnd(w, 3000);
	int status;
	pid_t pid;

	pthread_mutex_lock(&fork_lock);
	pid = fork();
	if (!pid) {
		for (;;) {
			op_write(w);
			op_call(w);
		}
	}
	pthread_mutex_unlock(&fork_lock);
	usleep(pause_us);
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

/* A consumer: maps the file, reads it all, makes huge pages of it */
static void op_consume(struct worker *w)
{
	struct stat st;
	volatile char sum = 0;
	char *map;

	CHECK(!fstat(w->fd, &st));
	if (!st.st_size)
		return;
	map = mmap(0, st.st_size, PROT_READ, MAP_SHARED, w->fd, 0);
	CHECK(map != MAP_FAILED);
	for (off_t i = 0; i < st.st_size; i += PS)
		sum += map[i];
	madvise(map, st.st_size, rnd(w, 2) ? MADV_COLLAPSE : MADV_PAGEOUT);
	munmap(map, st.st_size);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	static void (*const ops[])(struct worker *) = {
		op_write, op_write, op_write, op_call, op_call, op_call,  op_check_memory, op_check_file,
		op_fresh, op_advise, op_advise, op_protect, op_fork, op_kill, op_consume, op_fresh,
	};

	for (; time(NULL) < until; w->ops++)
		ops[rnd(w, 16)](w);
	CHECK(!memcmp(w->at, w->shadow, REGION));
	return NULL;
}

static void stress_process(uint64_t random)
{
	enum { THREADS = 2 };
	static struct worker w[THREADS];
	pthread_t thread[THREADS];
	char *at = memory(THREADS * REGION, 1);

	for (int i = 0; i < THREADS; i++) {
		w[i].random = random * THREADS + i + 1;
		w[i].at = at + i * REGION;
		w[i].shadow = calloc(1, REGION);
		w[i].fd = memfd();
		for (int warm = 0; warm < 10; warm++)
			rnd(&w[i], 2);
		CHECK(!pthread_create(&thread[i], NULL, work, &w[i]));
	}
	for (int i = 0; i < THREADS; i++) {
		CHECK(!pthread_join(thread[i], NULL));
		printf("  seed %lu: %lu ops, %lu calls, pages moved %lu (huge %lu) swapped %lu copied %lu\n",
		       (unsigned long)random, w[i].ops, w[i].calls, w[i].moved, w[i].huge, w[i].swapped,
		       w[i].copied);
		CHECK(w[i].moved && w[i].swapped && w[i].copied);
	}
}

static void t_stress(void)
{
	enum { PROCESSES = 3 };
	pid_t pids[PROCESSES];

	until = time(NULL) + seconds;
	enter_cgroup("160M");
	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			stress_process(seed * 1000 + i);
			exit(0);
		}
	}
	for (int i = 0; i < PROCESSES; i++)
		child_ok(pids[i]);
	leave_cgroup();
}

const struct group stress_groups[] = {
	{ "stress", t_stress, FULL },
	{ NULL, NULL, 0 },
};
