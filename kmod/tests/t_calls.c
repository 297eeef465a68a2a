// SPDX-License-Identifier: GPL-2.0
/* The interface: its structs, arguments, ranges, and what is refused. */
#include "kz.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>

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
	char *p = memory(16 * PS, 0);
	int fd = memfd(), file, pipes[2];
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
	CHECK(deanon(999, p, PS, 0) == EBADF && deanon(-1, p, PS, 0) == EBADF);
	file = memfd();
	CHECK(!close(file) && deanon(file, p, PS, 0) == EBADF);
	CHECK(!pipe(pipes) && deanon(pipes[1], p, PS, 0) == EINVAL);
	file = open("/small", O_PATH);
	CHECK(file >= 0 && deanon(file, p, PS, 0) == EBADF);
	CHECK(deanon(dev, p, PS, 0) == EINVAL);
	d.reserved = 1;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EINVAL);
	d.reserved = 0;
	d.size = 24;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EINVAL);
	d.size = sizeof(d);
	d.nr_ranges = 1 << 20;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EINVAL);
	d.nr_ranges = 1;
	d.ranges = 8;
	CHECK(ioctl(dev, KERNELZERO_DEANON, &d) && errno == EFAULT);
	file = open("/proc/self/status", O_RDONLY);
	CHECK(deanon(file, p, PS, 0) == EINVAL);
	file = open("/small", O_RDONLY | O_DIRECTORY);
	CHECK(deanon(file, p, PS, 0) == EINVAL);
	file = open("/small/x", O_RDONLY | O_CREAT, 0600);
	CHECK(deanon(file, p, PS, 0) == EBADF);
	file = open("/small/x", O_WRONLY);
	CHECK(deanon(file, p, PS, 0) == EBADF && !unlink("/small/x"));
	file = memfd_create("huge", MFD_HUGETLB);
	CHECK(file >= 0 && deanon(file, p, PS, 0) == EINVAL);
	CHECK(same(p, 16 * PS, 1, 0) && !fstat(fd, &st) && !st.st_size && !st.st_blocks);
}

/* Memory that a private file mapping could not stand in for */
static void t_refused_memory(void)
{
	int fd = memfd(), pkey, uffd;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	const int advice[] = { MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK };
	char *p = mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), stack[3 * PS];
	struct stat st;

	CHECK(deanon(fd, p, PS, 0) == EINVAL);
	p = mmap(0, PS, PROT_READ, MAP_PRIVATE, open("/init", O_RDONLY), 0);
	CHECK(deanon(fd, p, PS, 0) == EINVAL);
	CHECK(deanon(fd, (void *)(((uintptr_t)stack + PS) & -PS), PS, 0) == EINVAL);
	p = memory(2 * PS, 0);
	CHECK(!mlock(p, 2 * PS) && deanon(fd, p, 2 * PS, 0) == EINVAL);
	CHECK(!munlock(p, 2 * PS) && !deanon(fd, p, 2 * PS, 0));
	p = memory(2 * PS, 0);
	CHECK(!mprotect(p, PS, PROT_READ | PROT_EXEC) && deanon(fd, p, PS, 0) == EINVAL);
	for (int i = 0; i < 3; i++) {
		p = memory(2 * PS, 0);
		fill(p, 2 * PS, 1);
		CHECK(!madvise(p, PS, advice[i]) && deanon(fd, p, PS, 0) == EINVAL);
		CHECK(!deanon(fd, p + PS, PS, 0) && same(p, 2 * PS, 1, 0));
	}
	p = memory(2 * PS, 0);
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	CHECK(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api));
	reg.range = (struct uffdio_range){ (uintptr_t)p, 2 * PS };
	CHECK(!ioctl(uffd, UFFDIO_REGISTER, &reg) && deanon(fd, p, 2 * PS, 0) == EINVAL);
	close(uffd);
	CHECK(!deanon(fd, p, 2 * PS, 0));
	p = memory(2 * PS, 0); /* a file's mapping would become executable */
	CHECK(personality(READ_IMPLIES_EXEC) >= 0 && deanon(fd, p, PS, 0) == EINVAL);
	CHECK(personality(0) >= 0 && !deanon(fd, p, PS, 0));
	pkey = pkey_alloc(0, 0);
	if (pkey < 0)
		skip("no protection keys");
	p = memory(PS, 0);
	CHECK(!pkey_mprotect(p, PS, PROT_READ | PROT_WRITE, pkey) && deanon(fd, p, PS, 0) == EINVAL);
	if (release() >= 610) { /* mseal(2) */
		p = memory(2 * PS, 0);
		fill(p, 2 * PS, 1);
		CHECK(!syscall(462, p, PS, 0) && deanon(fd, p, PS, 0) == EPERM && same(p, 2 * PS, 1, 0));
		CHECK(deanon(fd, p + 9, 2 * PS - 9, 0) == 0); /* its whole page is not sealed */
	}
	p = memory(PS, 0);
	CHECK(!fstat(fd, &st) && !mlockall(MCL_FUTURE) && deanon(fd, p, PS, 0) == EINVAL && !munlockall());
}

/* Shmem files that cannot grow or must not swap: /dev/zero's, SysV's, of a tmpfs without swap */
static void t_refused_files(void)
{
	char *p = memory(PS, 0), *z, path[64];
	int id, fd;

	fill(p, PS, 1);
	z = mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)z, (long)z + PS);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0 && deanon(fd, p, PS, 0) == EINVAL);
	id = shmget(IPC_PRIVATE, PS, IPC_CREAT | 0600);
	z = shmat(id, 0, 0);
	CHECK(z != (void *)-1 && !shmctl(id, IPC_RMID, 0));
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (long)z, (long)z + PS);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0 && deanon(fd, p, PS, 0) == EINVAL);
	CHECK(!mkdir("/noswap", 0755) || errno == EEXIST);
	if (release() < 604) {
		CHECK(mount("none", "/noswap", "tmpfs", 0, "noswap"));
	} else {
		CHECK(!mount("none", "/noswap", "tmpfs", 0, "noswap"));
		fd = open("/noswap/f", O_RDWR | O_CREAT, 0600);
		CHECK(fd >= 0 && deanon(fd, p, PS, 0) == EINVAL);
		close(fd);
		CHECK(!umount("/noswap"));
	}
	CHECK(same(p, PS, 1, 0));
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
	CHECK(deanon(fd, p + 100, 6 * PS, 0) == EINVAL && !got_done); /* its whole pages are a file's now */
	CHECK(!got.copied && !got.moved);
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

static struct kernelzero_range piece(char *from, char *to)
{
	return (struct kernelzero_range){ .addr = (uintptr_t)from, .len = to - from };
}

/* Ranges without a gap go together, as one; what is said of them is said of each */
static void t_adjacent(void)
{
	struct kernelzero_range r[4];
	char *p = memory(24 * MB, 0);
	int fd = memfd(), small = open("/small/x", O_RDWR | O_CREAT, 0600);

	fill(p, 24 * MB, 8); /* more than a chunk, and a mapping of its own in the middle */
	CHECK(!mprotect(p + 18 * MB, PS, PROT_READ));
	r[0] = piece(p + 5, p + PS);
	r[1] = piece(p + PS, p + 20 * MB);
	r[2] = piece(p + 20 * MB, p + 23 * MB + 9);
	r[3] = piece(p + 23 * MB + 9, p + 23 * MB + 90); /* not at a page: by itself */
	CHECK(!call(fd, r, 4, 0) && got_ranges == 4 && got.moved == 23 * MB / PS - 1 && got.copied == 3);
	CHECK(r[0].offset == 5 && r[1].offset == PS && r[2].offset == 20 * MB && r[3].offset == 23 * MB + PS + 9);
	for (int i = 0; i < 4; i++)
		CHECK(r[i].done == r[i].len && file_same(fd, r[i].offset, r[i].len, 8, r[i].addr - (uintptr_t)p));
	CHECK(same(p, 24 * MB, 8, 0) && file_zero(fd, 23 * MB + 9, PS));

	for (int bad = 0; bad < 3; bad++) { /* one of three does not suit */
		char *q = memory(6 * PS, 0);
		off_t end = lseek(fd, 0, SEEK_END);

		fill(q, 6 * PS, 9);
		CHECK(!madvise(q + 2 * bad * PS, 2 * PS, MADV_DONTDUMP));
		for (int i = 0; i < 3; i++)
			r[i] = piece(q + 2 * i * PS, q + 2 * (i + 1) * PS);
		CHECK(call(fd, r, 3, 0) == EINVAL && got_ranges == (unsigned)bad && got.moved == 2UL * bad);
		for (int i = 0; i < 3; i++)
			CHECK(r[i].done == (i < bad ? 2 * PS : 0) && (i >= bad || file_same(fd, r[i].offset, 2 * PS, 9, 2 * i * PS)));
		CHECK(same(q, 6 * PS, 9, 0) && lseek(fd, 0, SEEK_END) - end <= (off_t)(2 * bad + 1) * (off_t)PS);
	}

	p = memory(6 * MB, 0); /* together they do not fit, the first does */
	fill(p, 6 * MB, 3);
	r[0] = piece(p + 5, p + 3 * MB);
	r[1] = piece(p + 3 * MB, p + 6 * MB);
	CHECK(call(small, r, 2, 0) == ENOSPC && got_ranges == 1 && !r[1].done);
	CHECK(got.copied == 1 && got.moved == 3 * MB / PS - 1); /* the edge was copied twice, and stays once */
	CHECK(file_same(small, r[0].offset, 3 * MB - 5, 3, 5) && same(p, 6 * MB, 3, 0) && !unlink("/small/x"));
}

/* A range that ends in no memory: what was before the gap is in the file, and done says how much */
static void t_partly_mapped(void)
{
	char *p = memory(8 * PS, 0);
	int fd = memfd();
	struct stat st;

	fill(p, 8 * PS, 1);
	CHECK(!munmap(p + 5 * PS, PS));
	CHECK(deanon(fd, p + 9, 8 * PS - 9, 0) == ENOMEM && got_done == 5 * PS - 9);
	CHECK(got.copied == 1 && got.moved == 4);
	CHECK(!fstat(fd, &st) && st.st_size == 5 * PS && st.st_blocks == 5 * 8);
	CHECK(file_same(fd, 9, 5 * PS - 9, 1, 9) && same(p, 5 * PS, 1, 0) && same(p + 6 * PS, 2 * PS, 1, 6 * PS));
}

static void t_seals(void)
{
	char *p = memory(4 * PS, 0), *h = memory(2 * HUGE, 1), c = 1;
	int fd = memfd(), reader;
	char path[64];

	fill(p, 4 * PS, 7);
	fill(h, 2 * HUGE, 8);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) && deanon(fd, p, PS, 0) == EPERM);
	fd = memfd();
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) && !deanon(fd, p, 4 * PS, 0) && got.moved == 4);
	CHECK(!deanon(fd, h, 2 * HUGE, KERNELZERO_HUGE) && got.moved_huge == 1024);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDWR);
	CHECK(pwrite(reader, &c, 1, 0) < 0 && ftruncate(reader, 0) < 0 && ftruncate(reader, 8 * MB) < 0);
	CHECK(mmap(0, PS, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED);
	p[0] = h[0] = 99;
	CHECK(file_same(fd, 0, 4 * PS, 7, 0) && file_same(fd, got_offset, 2 * HUGE, 8, 0));
}

/* A write takes a file's set-user-id bit away, and changes its times */
static void t_privileges(void)
{
	int fd = open("/small/suid", O_RDWR | O_CREAT, 0777);
	struct timespec old[2] = { { 1, 0 }, { 1, 0 } };
	struct stat st;
	pid_t pid;

	CHECK(fd >= 0 && !fchmod(fd, 06777) && !futimens(fd, old));
	CHECK(!chmod("/dev/kernelzero", 0666));
	pid = fork();
	if (!pid) {
		char *p = memory(PS, 0);

		fill(p, PS, 1);
		CHECK(!setgid(1000) && !setuid(1000) && !deanon(fd, p, PS, 0) && got.moved == 1);
		_exit(0);
	}
	child_ok(pid);
	CHECK(!fstat(fd, &st) && !(st.st_mode & 06000) && st.st_mtime > 1 && !unlink("/small/suid"));
}

const struct group call_groups[] = {
	{ "query", t_query, FAST | FULL },
	{ "arguments", t_arguments, FAST | FULL },
	{ "refused_memory", t_refused_memory, FAST | FULL },
	{ "refused_files", t_refused_files, FAST | FULL },
	{ "edges", t_edges, FAST | FULL },
	{ "ranges", t_ranges, FAST | FULL },
	{ "adjacent", t_adjacent, FAST | FULL },
	{ "partly_mapped", t_partly_mapped, FAST | FULL },
	{ "seals", t_seals, FAST | FULL },
	{ "privileges", t_privileges, FULL },
	{ NULL, NULL, 0 },
};
