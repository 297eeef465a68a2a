// SPDX-License-Identifier: GPL-2.0
/*
 * The file: charging it, and adding pages and swap entries to it.
 *
 * The caller holds inode_lock. All pages go in beyond the file's size, where faults, reads and
 * userfaultfd find nothing and add nothing; the size follows when the pages are there. One other
 * party can fill a slot: khugepaged (or MADV_COLLAPSE) when it makes a huge page of the file's last
 * pages. kz_store() removes that.
 */
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat.h"
#include "engine.h"
#include "fault.h"

KZ_FAULT_POINT(charge);
KZ_FAULT_POINT(alloc);
KZ_FAULT_POINT(store);
KZ_FAULT_POINT(take);

/* ---- charging ------------------------------------------------------------------------------- */

/*
 * Return an unused charge. nrpages goes down first, and shmem_recalc_inode() then finds as many pages
 * freed. shmem_uncharge() must not count them as pages: 6.1 would subtract them once more if a
 * stat() had called recalc first.
 */
static void kz_uncharge(struct kz_call *c, long nr)
{
	if (!nr)
		return;
	xa_lock_irq(&c->mapping->i_pages);
	c->mapping->nrpages -= nr;
	xa_unlock_irq(&c->mapping->i_pages);
	kz_call(shmem_uncharge)(c->inode, 0);
}

/* As shmem_alloc_folio() and shmem_alloc_and_add_folio(). */
struct folio *kz_new_folio(struct kz_call *c, gfp_t extra)
{
	gfp_t gfp = mapping_gfp_mask(c->mapping) | extra;
	struct folio *folio;

	if (!(extra & __GFP_NOFAIL) && KZ_FAILS(alloc))
		return NULL;
	folio = folio_alloc(gfp, 0);
	if (!folio)
		return NULL;
	if (kz_memcg_charge(folio, gfp)) {
		folio_put(folio);
		return NULL;
	}
	__folio_set_swapbacked(folio);
	return folio;
}

int kz_reserve(struct kz_call *c)
{
	unsigned int i;

	if (c->nr_pages + c->nr_swap && (KZ_FAILS(charge) || !kz_charge(c->inode, c->nr_pages + c->nr_swap)))
		return -ENOSPC;
	for (i = 0; i < c->nr_items; i++) {
		if (!c->items[i].must_copy)
			continue;
		c->items[i].copy = kz_new_folio(c, 0);
		if (!c->items[i].copy) {
			kz_unreserve(c);
			return -ENOMEM;
		}
	}
	return 0;
}

void kz_unreserve(struct kz_call *c)
{
	kz_uncharge(c, c->nr_pages + c->nr_swap);
}

/* ---- into the page cache ----------------------------------------------------------------------- */

/* As ftruncate() in shmem_setattr(), except for the size, which the caller sets. */
void kz_truncate(struct kz_call *c, pgoff_t index)
{
	loff_t from = (loff_t)index << PAGE_SHIFT;

	unmap_mapping_range(c->mapping, from, 0, 1);
	shmem_truncate_range(c->inode, from, -1);
	unmap_mapping_range(c->mapping, from, 0, 1);
}

static int kz_try_store(struct kz_call *c, pgoff_t index, unsigned int order, void *entry, struct folio *folio)
{
	XA_STATE_ORDER(xas, &c->mapping->i_pages, index, order);

	if (KZ_FAILS(store))
		return -EEXIST;
	do {
		xas_lock_irq(&xas);
		if (xas_find_conflict(&xas))
			xas_set_err(&xas, -EEXIST);
		else
			xas_store(&xas, entry);
		if (!xas_error(&xas) && folio)
			kz_count_file_pages(folio, 1L << order);
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL | __GFP_NOFAIL));
	return xas_error(&xas);
}

/*
 * Store a folio or swap entry. If collapse_file() has put a huge page over our slots, it holds only
 * zeros beyond the end of the file: that part is punched out, which splits the page. Repeated until
 * it succeeds; only a pin of the page can delay it. False: killed while waiting.
 */
static bool kz_store(struct kz_call *c, pgoff_t index, unsigned int order, void *entry, struct folio *folio)
{
	struct shmem_inode_info *info = SHMEM_I(c->inode);
	pgoff_t keep = info->fallocend; /* punching would lower it */
	loff_t from = (loff_t)index << PAGE_SHIFT;

	while (kz_try_store(c, index, order, entry, folio)) {
		if (fatal_signal_pending(current))
			return false;
		shmem_truncate_range(c->inode, from, from + (PAGE_SIZE << order) - 1);
		info->fallocend = keep;
		schedule_timeout_killable(1);
	}
	return true;
}

/* Add a locked folio whose mapping, index and cache references are set; as shmem_add_to_page_cache(). */
static bool kz_add_locked(struct kz_call *c, struct folio *folio)
{
	if (!kz_store(c, folio->index, folio_order(folio), folio, folio)) {
		folio->mapping = NULL;
		folio_ref_sub(folio, folio_nr_pages(folio));
		return false;
	}
	folio_mark_uptodate(folio);
	folio_mark_dirty(folio);
	return true;
}

static bool kz_add_new(struct kz_call *c, struct folio *folio, pgoff_t index)
{
	bool added;

	folio_lock(folio);
	folio_get(folio); /* for the page cache */
	folio->mapping = c->mapping;
	folio->index = index;
	added = kz_add_locked(c, folio);
	if (added)
		folio_add_lru(folio);
	folio_unlock(folio);
	folio_put(folio);
	return added;
}

int kz_add_folio(struct kz_call *c, struct folio *folio, pgoff_t index)
{
	if (KZ_FAILS(charge) || !kz_charge(c->inode, 1)) {
		folio_put(folio);
		return -ENOSPC;
	}
	if (!kz_add_new(c, folio, index)) {
		kz_uncharge(c, 1);
		return -EINTR;
	}
	return 0;
}

/* ---- a chunk's items ------------------------------------------------------------------------ */

/*
 * Turn an unmapped anonymous folio into one of the file. False: it has another user, or may get one
 * by swap. The folio is locked either way. It stays on its LRU list, the anonymous one, which is
 * shmem's too, and charged to its memory cgroup.
 */
static bool kz_take(struct kz_call *c, struct folio *folio, pgoff_t index)
{
	long i, nr = folio_nr_pages(folio);

	folio_lock(folio);
	if (KZ_FAILS(take))
		return false;
	if (!folio_test_anon(folio) || folio_test_ksm(folio) || !folio_test_swapbacked(folio))
		return false;
	folio_wait_writeback(folio);
	if (folio_test_swapcache(folio) && !kz_call(folio_free_swap)(folio))
		return false;
	/* Frozen: no new references. Leaves the deferred split queue as __folio_migrate_mapping() does. */
	if (folio_mapped(folio) || !folio_ref_freeze(folio, 1))
		return false;
	for (i = 0; i < nr; i++)
		ClearPageAnonExclusive(folio_page(folio, i));
	kz_leave_anon(folio);
	folio->mapping = c->mapping;
	folio->index = index;
	folio_ref_unfreeze(folio, 1 + nr); /* ours and the page cache's */
	return true;
}

/* A page that looked movable has another user (a pin, a migration): copy it. This must not fail. */
static bool kz_copy(struct kz_call *c, struct page *from, struct folio *to, pgoff_t index)
{
	if (!to)
		to = kz_new_folio(c, __GFP_NOFAIL);
	copy_highpage(folio_page(to, 0), from);
	if (!kz_add_new(c, to, index))
		return false;
	c->counts->copied++;
	return true;
}

static bool kz_insert_pages(struct kz_call *c, struct kz_item *item)
{
	unsigned long i, nr = 1UL << item->order;
	struct folio *folio = page_folio(item->page);
	pgoff_t index = c->index + item->rel;
	bool whole = true;

	if (item->copy) {
		whole = kz_copy(c, item->page, item->copy, index);
	} else if (kz_take(c, folio, index)) {
		whole = kz_add_locked(c, folio);
		folio_unlock(folio);
		if (whole)
			c->counts->moved += nr;
		if (whole && item->order)
			c->counts->moved_huge += nr;
	} else {
		folio_unlock(folio);
		for (i = 0; i < nr && whole; i++)
			whole = kz_copy(c, nth_page(item->page, i), NULL, index + i);
		if (!whole)
			nr -= i - 1; /* the pages that were not stored */
	}
	if (!whole)
		kz_uncharge(c, nr);
	put_page(item->page);
	return whole;
}

/*
 * Count swap entries as shmem's swap instead of its pages, as shmem_writepage() does: the inode goes
 * on the list that shmem_unuse() searches, whose mutex is held until the inode has swap entries.
 */
static void kz_count_swapped(struct kz_call *c)
{
	struct shmem_inode_info *info = SHMEM_I(c->inode);

	if (!c->nr_swap)
		return;
	mutex_lock(kz_sym.shmem_swaplist_mutex);
	if (list_empty(&info->swaplist))
		list_add(&info->swaplist, kz_sym.shmem_swaplist);
	spin_lock_irq(&info->lock);
	info->swapped += c->nr_swap;
	spin_unlock_irq(&info->lock);
	mutex_unlock(kz_sym.shmem_swaplist_mutex);
	xa_lock_irq(&c->mapping->i_pages);
	c->mapping->nrpages -= c->nr_swap;
	xa_unlock_irq(&c->mapping->i_pages);
}

static bool kz_insert_swap(struct kz_call *c, struct kz_item *item)
{
	struct shmem_inode_info *info = SHMEM_I(c->inode);

	if (kz_store(c, c->index + item->rel, 0, swp_to_radix_entry(item->swap), NULL)) {
		c->counts->swapped++;
		return true;
	}
	spin_lock_irq(&info->lock);
	info->swapped--;
	spin_unlock_irq(&info->lock);
	kz_call(shmem_uncharge)(c->inode, 0);
	kz_swap_put(item->swap);
	return false;
}

bool kz_insert(struct kz_call *c)
{
	bool whole = true;
	unsigned int i;

	kz_call(lru_add_drain)();
	kz_count_swapped(c);
	for (i = 0; i < c->nr_items; i++) {
		struct kz_item *item = &c->items[i];

		whole &= item->is_swap ? kz_insert_swap(c, item) : kz_insert_pages(c, item);
		if (!(i & 255))
			cond_resched();
	}
	c->nr_items = 0;
	return whole;
}
