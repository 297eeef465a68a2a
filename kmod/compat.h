/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The differences between the supported kernels, so that the engine has none.
 */
#ifndef KZ_COMPAT_H
#define KZ_COMPAT_H

#include <linux/list.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagewalk.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>
#include <linux/static_call.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/version.h>

#define KZ_612 (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0))
#ifndef KZ_TESTED
#define KZ_TESTED                                                                                            \
	((LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)) ||      \
	 (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)))
#endif

/*
 * Kernel functions that are not exported: F(name here, symbol, type).
 *
 * They are static calls, which kz_symbols_init() turns into direct jumps. Pointers would not do:
 * where the processor tracks indirect branches (IBT, in 6.12), a pointer must lead to an endbr64, and
 * at boot the kernel removes it from each function to which it has no pointer itself.
 */
#define KZ_FUNCTIONS(F)                                                                                      \
	F(walk_page_range, "walk_page_range",                                                                \
	  int(struct mm_struct *mm, unsigned long start, unsigned long end, const struct mm_walk_ops *ops,   \
	      void *private))                                                                                \
	F(shmem_charge, "shmem_charge", bool(struct inode *inode, long pages))                               \
	F(shmem_uncharge, "shmem_uncharge", void(struct inode *inode, long pages))                           \
	F(folio_free_swap, "folio_free_swap", bool(struct folio *folio))                                     \
	F(swap_duplicate, "swap_duplicate", int(swp_entry_t entry))                                          \
	F(swap_count, "__swap_count", int(swp_entry_t entry))                                                \
	F(swap_cache_get_folio, "swap_cache_get_folio",                                                      \
	  struct folio *(swp_entry_t entry, struct vm_area_struct *vma, unsigned long addr))                 \
	F(mem_cgroup_charge, "__mem_cgroup_charge",                                                          \
	  int(struct folio *folio, struct mm_struct *mm, gfp_t gfp))                                         \
	F(lru_add_drain, "lru_add_drain", void(void))                                                        \
	F(lru_add_drain_all, "lru_add_drain_all", void(void))                                                \
	KZ_FUNCTIONS_VERSION(F) KZ_FUNCTIONS_SECURITY(F) KZ_FUNCTIONS_FAULTS(F)

#if KZ_612
#define KZ_FUNCTIONS_VERSION(F)                                                                              \
	F(do_mmap, "do_mmap",                                                                                \
	  unsigned long(struct file *file, unsigned long addr, unsigned long len, unsigned long prot,        \
			unsigned long flags, vm_flags_t vm_flags, unsigned long pgoff,                       \
			unsigned long *populate, struct list_head *uf))                                      \
	F(split, "split_huge_page_to_list_to_order",                                                         \
	  int(struct page *page, struct list_head *list, unsigned int order))                                \
	F(swap_free, "swap_free_nr", void(swp_entry_t entry, int nr))                                        \
	F(unqueue_deferred_split, "__folio_unqueue_deferred_split", bool(struct folio *folio))
#else
#define KZ_FUNCTIONS_VERSION(F)                                                                              \
	F(do_mmap, "do_mmap",                                                                                \
	  unsigned long(struct file *file, unsigned long addr, unsigned long len, unsigned long prot,        \
			unsigned long flags, unsigned long pgoff, unsigned long *populate,                   \
			struct list_head *uf))                                                               \
	F(split, "split_huge_page_to_list", int(struct page *page, struct list_head *list))                  \
	F(swap_free, "swap_free", void(swp_entry_t entry))
#endif

#ifdef CONFIG_SECURITY
#define KZ_FUNCTIONS_SECURITY(F)                                                                             \
	F(security_file_permission, "security_file_permission", int(struct file *file, int mask))            \
	F(security_mmap_file, "security_mmap_file",                                                          \
	  int(struct file *file, unsigned long prot, unsigned long flags))
#else
#define KZ_FUNCTIONS_SECURITY(F)
#endif

#ifdef KZ_FAULTS
#define KZ_FUNCTIONS_FAULTS(F)                                                                               \
	F(do_munmap, "do_munmap",                                                                            \
	  int(struct mm_struct *mm, unsigned long addr, size_t len, struct list_head *uf))
#else
#define KZ_FUNCTIONS_FAULTS(F)
#endif

#define KZ_DECLARE(name, symbol, type) DECLARE_STATIC_CALL(kz_##name, type);
KZ_FUNCTIONS(KZ_DECLARE)
#define kz_call(name) static_call(kz_##name)

/* Kernel data that is not exported. */
struct kz_symbols {
#if KZ_612
	struct mthp_stat __percpu *mthp_stats;
#endif
	struct list_head *shmem_swaplist;
	struct mutex *shmem_swaplist_mutex;
};

extern struct kz_symbols kz_sym;

int kz_symbols_init(void);

static inline unsigned long kz_do_mmap(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long prot, unsigned long flags, pgoff_t index)
{
	unsigned long populate = 0;
	LIST_HEAD(uf); /* stays empty: ranges armed for userfaultfd are refused */

#if KZ_612
	return kz_call(do_mmap)(file, addr, len, prot, flags, 0, index, &populate, &uf);
#else
	return kz_call(do_mmap)(file, addr, len, prot, flags, index, &populate, &uf);
#endif
}

static inline int kz_split(struct folio *folio)
{
#if KZ_612
	return kz_call(split)(&folio->page, NULL, 0);
#else
	return kz_call(split)(&folio->page, NULL);
#endif
}

static inline void kz_swap_put(swp_entry_t entry)
{
#if KZ_612
	kz_call(swap_free)(entry, 1);
#else
	kz_call(swap_free)(entry);
#endif
}

/* The checks of vfs_write() and mmap(2). */
static inline int kz_security(struct file *file)
{
#ifdef CONFIG_SECURITY
	int err = kz_call(security_file_permission)(file, MAY_WRITE);

	return err ?: kz_call(security_mmap_file)(file, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE);
#else
	return 0;
#endif
}

/* Charge the file for pages: blocks, quota, limit, commit and nrpages. False: no space. */
static inline bool kz_charge(struct inode *inode, long pages)
{
#if KZ_612
	return kz_call(shmem_charge)(inode, pages);
#else
	bool ok; /* 6.1 adds to nrpages without taking the lock itself */

	xa_lock_irq(&inode->i_mapping->i_pages);
	ok = kz_call(shmem_charge)(inode, pages);
	xa_unlock_irq(&inode->i_mapping->i_pages);
	return ok;
#endif
}

static inline bool kz_is_shmem(struct address_space *mapping)
{
#if KZ_612
	return shmem_mapping(mapping);
#else
	return mapping->a_ops == &shmem_aops;
#endif
}

/* The statistics that shmem_add_to_page_cache() keeps. The xarray is locked, interrupts are off. */
static inline void kz_count_file_pages(struct folio *folio, long nr)
{
#if KZ_612
	if (folio_test_pmd_mappable(folio))
		__lruvec_stat_mod_folio(folio, NR_SHMEM_THPS, nr);
	__lruvec_stat_mod_folio(folio, NR_FILE_PAGES, nr);
	__lruvec_stat_mod_folio(folio, NR_SHMEM, nr);
#else
	if (nr > 1)
		__mod_lruvec_page_state(&folio->page, NR_SHMEM_THPS, nr);
	__mod_lruvec_page_state(&folio->page, NR_FILE_PAGES, nr);
	__mod_lruvec_page_state(&folio->page, NR_SHMEM, nr);
#endif
}

/* As mem_cgroup_charge(), whose inner function is not exported; to the caller's own group. */
static inline int kz_memcg_charge(struct folio *folio, gfp_t gfp)
{
	return mem_cgroup_disabled() ? 0 : kz_call(mem_cgroup_charge)(folio, NULL, gfp);
}

static inline swp_entry_t kz_folio_swap(struct folio *folio)
{
#if KZ_612
	return folio->swap;
#else
	return folio_swap_entry(folio);
#endif
}

/*
 * 6.12's bookkeeping of anonymous large folios: the deferred split queue, which all of them are on
 * from birth (the folio is frozen, as folio_unqueue_deferred_split() requires), and the statistics of
 * __folio_add_new_anon_rmap() and free_pages_prepare().
 */
static inline void kz_leave_anon(struct folio *folio)
{
#if KZ_612
	if (!folio_test_large(folio))
		return;
	if (folio_order(folio) > 1 && folio_test_large_rmappable(folio) && !list_empty(&folio->_deferred_list))
		kz_call(unqueue_deferred_split)(folio);
	this_cpu_add(kz_sym.mthp_stats->stats[folio_order(folio)][MTHP_STAT_NR_ANON], -1);
#endif
}

#if KZ_612
#define KZ_VM_NEW (VM_DROPPABLE | VM_SHADOW_STACK)
#define KZ_WALK_LOCK .walk_lock = PGWALK_WRLOCK,
#else
#define KZ_VM_NEW VM_NONE
#define KZ_WALK_LOCK
#endif

#endif
