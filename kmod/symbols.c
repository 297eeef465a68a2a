// SPDX-License-Identifier: GPL-2.0
/*
 * Finds the kernel's functions that are not exported. A missing symbol fails the load; a
 * changed signature could not be seen, which is why main.c refuses kernels not tested.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

#include "compat.h"

struct kz_symbols kz_sym;

static const struct {
	const char *name;
	void *slot;
} kz_wanted[] = {
	{ "walk_page_range", &kz_sym.walk_page_range },
	{ "do_mmap", &kz_sym.do_mmap },
#if KZ_612
	{ "split_huge_page_to_list_to_order", &kz_sym.split },
	{ "swap_free_nr", &kz_sym.swap_free },
	{ "__folio_unqueue_deferred_split", &kz_sym.unqueue_deferred_split },
	{ "mthp_stats", &kz_sym.mthp_stats },
#else
	{ "split_huge_page_to_list", &kz_sym.split },
	{ "swap_free", &kz_sym.swap_free },
#endif
	{ "shmem_charge", &kz_sym.shmem_charge },
	{ "shmem_uncharge", &kz_sym.shmem_uncharge },
	{ "folio_free_swap", &kz_sym.folio_free_swap },
	{ "swap_duplicate", &kz_sym.swap_duplicate },
	{ "__swap_count", &kz_sym.swap_count },
	{ "swap_cache_get_folio", &kz_sym.swap_cache_get_folio },
	{ "__mem_cgroup_charge", &kz_sym.mem_cgroup_charge },
	{ "lru_add_drain", &kz_sym.lru_add_drain },
	{ "lru_add_drain_all", &kz_sym.lru_add_drain_all },
#ifdef KZ_FAULTS
	{ "do_munmap", &kz_sym.do_munmap },
#endif
	{ "shmem_swaplist", &kz_sym.shmem_swaplist },
	{ "shmem_swaplist_mutex", &kz_sym.shmem_swaplist_mutex },
};

int kz_symbols_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);
	unsigned long at;
	int i, err;

	err = register_kprobe(&probe);
	if (err) {
		pr_err("kernelzero: no kprobe on kallsyms_lookup_name (%d)\n", err);
		return err;
	}
	at = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
#ifdef CONFIG_X86_KERNEL_IBT
	if (*(u32 *)(at - 4) == 0xfa1e0ff3) /* the probe sits behind endbr64, a call must not */
		at -= 4;
#endif
	lookup = (void *)at;
	for (i = 0; i < ARRAY_SIZE(kz_wanted); i++) {
		at = lookup(kz_wanted[i].name);
		if (!at) {
			pr_err("kernelzero: the kernel has no %s\n", kz_wanted[i].name);
			return -ENOENT;
		}
		*(unsigned long *)kz_wanted[i].slot = at;
	}
	return 0;
}
