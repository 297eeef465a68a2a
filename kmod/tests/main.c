// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of /dev/kernelzero; runs as root in the guest that run.py boots.
 *
 *     kztest fast|full|faults|memcg|swap|NAME SEED SECONDS     NAME: one group; SECONDS: of the stress
 *
 * Prints 'ok NAME', 'FAILED NAME' or 'SKIPPED NAME' per group. Between groups the kernel's page
 * counters must be back, exactly where they are exact.
 */
#include "kz.h"

#include <signal.h>

int dev;
unsigned long seed, seconds;

static const struct group *const all_groups[] = {
	call_groups, page_groups, swap_groups, account_groups, race_groups, fault_groups, stress_groups
};

/* Counters that must come back; slack in their own unit for batches and for the tests' own processes. */
static const struct {
	const char *file, *name;
	long slack;
} counters[] = {
	{ "/proc/vmstat", "nr_shmem", 0 },
	{ "/proc/vmstat", "nr_shmem_hugepages", 0 },
	{ "/proc/vmstat", "nr_anon_transparent_hugepages", 0 },
	{ "/proc/vmstat", "nr_anon_pages", 64 },
	{ "/proc/vmstat", "nr_file_pages", 64 },
	{ "/proc/vmstat", "nr_mapped", 128 },
	{ "/proc/meminfo", "Committed_AS", 1024 },
	{ "/proc/meminfo", "SwapFree", 4096 }, /* swap slots cached per CPU */
	{ "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats/nr_anon", "", 0 }, /* 6.12 */
};
#define NR_COUNTERS (sizeof(counters) / sizeof(*counters))
#define LISTS_SLACK 64 /* pages */
#define HIDDEN_SLACK (512 - 2 * LISTS_SLACK) /* a leaked huge page is more, whatever the lists do */

/* Pages in the per-CPU lists of free pages */
static long free_on_cpus(void)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	char line[256];
	long count, sum = 0;

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &count) == 1)
			sum += count;
	fclose(f);
	return sum;
}

/* Pages that are neither free in a zone nor anything the kernel has a counter for */
static long uncounted_pages(void)
{
	static const char *const known[] = { "nr_free_pages", "nr_anon_pages", "nr_file_pages", "nr_zspages",
					     "nr_slab_reclaimable", "nr_slab_unreclaimable",
					     "nr_page_table_pages" };
	long pages = field("/proc/meminfo", "MemTotal") / 4;

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		pages -= field("/proc/vmstat", known[i]);
	pages += field("/proc/vmstat", "nr_swapcached"); /* anonymous and file at once */
	return pages - field("/proc/vmstat", "nr_kernel_stack") / 4;
}

/*
 * Those that are not free on a CPU either: a leaked page becomes one. A CPU gives its zone thousands of
 * free pages at once, which would be free twice, or never, if that fell between the two readings.
 */
static long hidden_pages(void)
{
	long lists, hidden;

	do {
		lists = free_on_cpus();
		hidden = uncounted_pages() - lists;
	} while (labs(free_on_cpus() - lists) > LISTS_SLACK);
	return hidden;
}

struct counts {
	long value[NR_COUNTERS], hidden;
};

static void read_counters(struct counts *c)
{
	put("/proc/sys/vm/drop_caches", "3");
	put("/proc/sys/vm/stat_refresh", "1");
	for (size_t i = 0; i < NR_COUNTERS; i++)
		c->value[i] = access(counters[i].file, R_OK) ? 0 : field(counters[i].file, counters[i].name);
	c->hidden = hidden_pages();
}

/* The pages of dead processes go at once; batches, cgroups and RCU want a moment. */
static int all_back(const struct counts *before)
{
	struct counts now;
	size_t bad = 0;

	for (int tries = 0; tries < 50; tries++, usleep(100000)) {
		read_counters(&now);
		for (bad = 0; bad < NR_COUNTERS; bad++)
			if (labs(now.value[bad] - before->value[bad]) > counters[bad].slack)
				break;
		if (bad == NR_COUNTERS && now.hidden - before->hidden <= HIDDEN_SLACK)
			return 1;
	}
	if (bad < NR_COUNTERS)
		printf("  left behind: %s %s %+ld\n", counters[bad].file, counters[bad].name,
		       now.value[bad] - before->value[bad]);
	else
		printf("  %+ld pages that nobody accounts for\n", now.hidden - before->hidden);
	return 0;
}

static int run_group(const struct group *g)
{
	struct counts before;
	int status;
	pid_t pid;

	read_counters(&before);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		g->run();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	kill(-pid, SIGKILL); /* children that outlive a failure */
	if (WIFSIGNALED(status))
		printf("  signal %d\n", WTERMSIG(status));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		printf("SKIPPED %s\n", g->name);
		return 1;
	}
	if (!all_back(&before))
		status = -1;
	printf("%s %s\n", status ? "FAILED" : "ok", g->name);
	return !!status;
}

int main(int argc, char **argv)
{
	static const char *const sets[] = { "fast", "full", "faults", "memcg", "swap" };
	int failed = 0, ran = 0, wanted = 0;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc != 4)
		return 2;
	for (int i = 0; i < 5; i++)
		if (!strcmp(argv[1], sets[i]))
			wanted = 1 << i;
	seed = strtoul(argv[2], NULL, 0);
	seconds = strtoul(argv[3], NULL, 0);
	dev = open("/dev/kernelzero", O_RDWR | O_CLOEXEC);
	if (dev < 0) {
		perror("/dev/kernelzero");
		return 2;
	}
	for (size_t i = 0; i < sizeof(all_groups) / sizeof(*all_groups); i++)
		for (const struct group *g = all_groups[i]; g->name; g++)
			if (g->sets & wanted || !strcmp(g->name, argv[1])) {
				ran++;
				failed += run_group(g);
			}
	return failed || !ran;
}
