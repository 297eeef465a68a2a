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

static struct { /* of all processes */
	unsigned long moved, huge, swapped, copied;
} *totals;
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

static int call_range(struct worker *w, size_t from, size_t n)
{
	struct record *r = &w->records[w->nr_records];
	int err = deanon(w->fd, w->at + from, n, rnd(w, 2));

	w->calls++;
	w->moved += got.moved;
	w->huge += got.moved_huge;
	w->swapped += got.swapped;
	w->copied += got.copied;
	CHECK(got_done <= n && (err || got_done == n));
	if (!got_done)
		return err;
	*r = (struct record){ got_offset, got_done, malloc(got_done) };
	memcpy(r->bytes, w->shadow + from, got_done);
	w->recorded += got_done;
	if (++w->nr_records == RECORDS || w->recorded > REGION)
		new_file(w);
	return err;
}

/* Wherever it is: it may meet what is a file's already */
static void op_call(struct worker *w)
{
	size_t from, n = range(w, &from);
	int err = call_range(w, from, n);

	CHECK(!err || err == EINVAL || err == EAGAIN);
}

static void op_fresh(struct worker *w)
{
	size_t from, n = range(w, &from), first = from & -PS;

	n = ((from + n + PS - 1) & -PS) - first;
	CHECK(mmap(w->at + first, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      w->at + first);
	madvise(w->at + first, n, rnd(w, 2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(w->shadow + first, 0, n);
}

/* What a producer does: fresh memory, filled, maybe swapped out, and moved; that cannot fail */
static void op_produce(struct worker *w)
{
	size_t from, n = range(w, &from), first = from & -PS, all = ((from + n + PS - 1) & -PS) - first;
	int err;

	CHECK(mmap(w->at + first, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      w->at + first);
	madvise(w->at + first, all, rnd(w, 2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t i = 0; i < all; i += 8)
		*(uint64_t *)(w->shadow + first + i) = w->random + i;
	memcpy(w->at + first, w->shadow + first, all);
	if (rnd(w, 2))
		madvise(w->at + first, rnd(w, 2) ? all : (all / 2 & -PS), MADV_PAGEOUT);
	err = call_range(w, from, n);
	CHECK(!err || err == EAGAIN);
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
		op_produce, op_produce, op_produce, op_produce, op_write, op_call,    op_check_memory, op_check_file,
		op_fresh,   op_advise,	op_advise,  op_protect, op_fork,  op_consume, op_kill,	       op_fork,
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
		printf("  seed %lu.%d: %lu ops, %lu calls, pages moved %lu (huge %lu) swapped %lu copied %lu\n",
		       (unsigned long)random, i, w[i].ops, w[i].calls, w[i].moved, w[i].huge, w[i].swapped,
		       w[i].copied);
		__atomic_fetch_add(&totals->moved, w[i].moved, __ATOMIC_RELAXED);
		__atomic_fetch_add(&totals->huge, w[i].huge, __ATOMIC_RELAXED);
		__atomic_fetch_add(&totals->swapped, w[i].swapped, __ATOMIC_RELAXED);
		__atomic_fetch_add(&totals->copied, w[i].copied, __ATOMIC_RELAXED);
	}
}

static void t_stress(void)
{
	enum { PROCESSES = 3 };
	pid_t pids[PROCESSES];

	totals = mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	until = time(NULL) + seconds;
	new_cgroup();
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
	CHECK(totals->moved && totals->huge && totals->swapped && totals->copied); /* it tested them */
}

const struct group stress_groups[] = {
	{ "stress", t_stress, FULL | SWAP },
	{ NULL, NULL, 0 },
};
