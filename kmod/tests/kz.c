// SPDX-License-Identifier: GPL-2.0
/* The helpers declared in kz.h. */
#include "kz.h"

#include <sys/ioctl.h>
#include <sys/utsname.h>

__thread struct kernelzero_counts got;
__thread unsigned got_ranges;
__thread off_t got_offset;
__thread size_t got_done;

void skip(const char *why)
{
	printf("  skipped: %s\n", why);
	_exit(77);
}

unsigned char pattern(unsigned s, size_t i)
{
	return (unsigned char)((i * 31 + (i >> 12) * 7 + s * 101) % 251 + 1); /* never 0 */
}

void fill(void *at, size_t n, unsigned s)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)at)[i] = pattern(s, i);
}

int same(const void *at, size_t n, unsigned s, size_t skipped)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)at)[i] != pattern(s, skipped + i))
			return 0;
	return 1;
}

int file_same(int fd, off_t offset, size_t n, unsigned s, size_t skipped)
{
	char *copy = malloc(n);
	int ok = pread(fd, copy, n, offset) == (ssize_t)n && same(copy, n, s, skipped);

	free(copy);
	return ok;
}

int file_zero(int fd, off_t offset, size_t n)
{
	for (char c; n; n--, offset++)
		if (pread(fd, &c, 1, offset) != 1 || c)
			return 0;
	return 1;
}

char *memory(size_t n, int huge)
{
	char *raw = mmap(0, n + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = (char *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));

	CHECK(raw != MAP_FAILED);
	munmap(raw, p - raw);
	munmap(p + n, raw + HUGE - p);
	CHECK(!madvise(p, n, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	return p;
}

int memfd(void)
{
	int fd = memfd_create("kz", MFD_ALLOW_SEALING);

	CHECK(fd >= 0);
	return fd;
}

long pages_with(const void *at, size_t n, int bit)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	long count = 0;
	uint64_t entry;

	CHECK(fd >= 0);
	for (size_t i = 0; i < n / PS; i++) {
		CHECK(pread(fd, &entry, 8, ((uintptr_t)at / PS + i) * 8) == 8);
		count += entry >> bit & 1;
	}
	close(fd);
	return count;
}

int call(int fd, struct kernelzero_range *r, unsigned nr, unsigned flags)
{
	struct kernelzero_deanon d = {
		.size = sizeof(d), .fd = fd, .flags = flags, .nr_ranges = nr, .ranges = (uintptr_t)r
	};
	int err = ioctl(dev, KERNELZERO_DEANON, &d) ? errno : 0;

	got = d.counts;
	got_ranges = d.ranges_done;
	return err;
}

int deanon(int fd, void *at, size_t n, unsigned flags)
{
	struct kernelzero_range r = { .addr = (uintptr_t)at, .len = n };
	int err = call(fd, &r, 1, flags);

	got_offset = r.offset;
	got_done = r.done;
	return err;
}

long field(const char *file, const char *name)
{
	FILE *f = fopen(file, "r");
	char line[256];
	long value = -1;

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && (!*name || strchr(": ", line[strlen(name)])))
			value = atol(line + strlen(name) + !!*name);
	fclose(f);
	return value;
}

void put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
		printf("  writing '%s' to %s: %s\n", text, file, strerror(errno));
		_exit(1);
	}
	close(fd);
}

int release(void)
{
	struct utsname u;
	int major, minor;

	CHECK(!uname(&u) && sscanf(u.release, "%d.%d", &major, &minor) == 2);
	return major * 100 + minor;
}

void child_ok(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid && !status);
}

void new_cgroup(void)
{
	CHECK(!rmdir("/cg/t") || errno == ENOENT);
	CHECK(!mkdir("/cg/t", 0755));
}

void enter_cgroup(const char *limit)
{
	char pid[16];

	if (!access("/cg/t/memory.max", F_OK))
		put("/cg/t/memory.max", limit);
	else
		put("/cg/t/memory.limit_in_bytes", strcmp(limit, "max") ? limit : "-1");
	snprintf(pid, sizeof(pid), "%d", getpid());
	put("/cg/t/cgroup.procs", pid);
}

void leave_cgroup(void)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	put("/cg/cgroup.procs", pid);
}
