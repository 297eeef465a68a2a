// SPDX-License-Identifier: GPL-2.0
/*
 * The addresses of kernel functions that are not exported. A missing symbol fails the load. A
 * changed signature would go unnoticed, so main.c refuses kernels that were not tested.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

#include "compat.h"

struct kz_symbols kz_sym;

#define KZ_DEFINE(name, symbol, type) DEFINE_STATIC_CALL_NULL(kz_##name, type);
KZ_FUNCTIONS(KZ_DEFINE)
DEFINE_STATIC_CALL_NULL(kz_lookup, unsigned long(const char *name));

#define KZ_ENTRY(name, symbol, type) { symbol, &STATIC_CALL_KEY(kz_##name), STATIC_CALL_TRAMP_ADDR(kz_##name) },
static const struct {
	const char *name;
	struct static_call_key *key;
	void *tramp;
} kz_functions[] = { KZ_FUNCTIONS(KZ_ENTRY) };

static const struct {
	const char *name;
	void *slot;
} kz_data[] = {
#if KZ_612
	{ "mthp_stats", &kz_sym.mthp_stats },
#endif
	{ "shmem_swaplist", &kz_sym.shmem_swaplist },
	{ "shmem_swaplist_mutex", &kz_sym.shmem_swaplist_mutex },
};

static int kz_lookup_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int err = register_kprobe(&probe);

	if (err) {
		pr_err("kernelzero: no kprobe on kallsyms_lookup_name (%d)\n", err);
		return err;
	}
	/* It may be behind an endbr64; a jump may go to either. */
	static_call_update(kz_lookup, (void *)probe.addr);
	unregister_kprobe(&probe);
	return 0;
}

static unsigned long kz_find(const char *name)
{
	unsigned long at = static_call(kz_lookup)(name);

	if (!at)
		pr_err("kernelzero: the kernel has no %s\n", name);
	return at;
}

int kz_symbols_init(void)
{
	int i, err = kz_lookup_init();
	unsigned long at;

	if (err)
		return err;
	for (i = 0; i < ARRAY_SIZE(kz_functions); i++) {
		at = kz_find(kz_functions[i].name);
		if (!at)
			return -ENOENT;
		__static_call_update(kz_functions[i].key, kz_functions[i].tramp, (void *)at);
	}
	for (i = 0; i < ARRAY_SIZE(kz_data); i++) {
		at = kz_find(kz_data[i].name);
		if (!at)
			return -ENOENT;
		*(unsigned long *)kz_data[i].slot = at;
	}
	return 0;
}
