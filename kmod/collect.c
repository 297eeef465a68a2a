// SPDX-License-Identifier: GPL-2.0
/*
 * The contents of a chunk of the caller's memory. Walks its page table twice: first to split large
 * folios, then to take a reference on every page and a count on every swap entry.
 *
 * mmap_lock is held for writing throughout (and 6.12's walker write-locks the mapping), so no fault,
 * fork, unmapping or madvise of this process runs. Reclaim, migration, KSM and GUP-fast do run: what
 * the walk sees of a page's other users is only a guess, which kz_take() settles after unmapping.
 */
#include <linux/pagewalk.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat.h"
#include "engine.h"

static struct kz_item *kz_item_add(struct kz_call *c, unsigned long addr)
{
	struct kz_item *item;

	if (WARN_ON_ONCE(c->nr_items == c->max)) /* one item per page at most */
		return NULL;
	item = &c->items[c->nr_items++];
	memset(item, 0, sizeof(*item));
	item->rel = (addr - c->start) >> PAGE_SHIFT;
	return item;
}

/* ---- splitting ------------------------------------------------------------------------------ */

static bool kz_moves_whole(struct kz_call *c, struct folio *folio, unsigned long addr, unsigned long next)
{
	pgoff_t index = c->index + ((addr - c->start) >> PAGE_SHIFT);

	return c->huge && next - addr == HPAGE_PMD_SIZE && IS_ALIGNED(index, HPAGE_PMD_NR) &&
	       folio_order(folio) == HPAGE_PMD_ORDER && folio_test_swapbacked(folio) &&
	       folio_ref_count(folio) == 1;
}

static void kz_note_split(struct kz_call *c, struct folio *folio)
{
	if (c->nr_split == c->max || (c->nr_split && c->split[c->nr_split - 1] == folio))
		return;
	folio_get(folio);
	c->split[c->nr_split++] = folio;
}

static int kz_find_split_pmd(pmd_t *pmd, unsigned long addr, unsigned long next, struct mm_walk *walk)
{
	struct kz_call *c = walk->private;
	spinlock_t *ptl;

	if (!pmd_trans_huge(*pmd))
		return 0;
	ptl = pmd_lock(walk->mm, pmd);
	if (pmd_trans_huge(*pmd)) {
		struct folio *folio = page_folio(pmd_page(*pmd));

		if (folio_test_anon(folio) && !kz_moves_whole(c, folio, addr, next))
			kz_note_split(c, folio);
		walk->action = ACTION_CONTINUE;
	}
	spin_unlock(ptl);
	return 0;
}

static int kz_find_split_pte(pte_t *pte, unsigned long addr, unsigned long next, struct mm_walk *walk)
{
	pte_t entry = ptep_get(pte);
	struct folio *folio;

	if (!pte_present(entry) || pte_special(entry))
		return 0;
	folio = page_folio(pte_page(entry));
	if (folio_test_large(folio) && folio_test_anon(folio))
		kz_note_split(walk->private, folio);
	return 0;
}

static const struct mm_walk_ops kz_split_ops = {
	.pmd_entry = kz_find_split_pmd,
	.pte_entry = kz_find_split_pte,
	KZ_WALK_LOCK
};

int kz_split_large(struct kz_call *c, unsigned long end)
{
	unsigned int i;
	int err;

	c->nr_split = 0;
	err = kz_call(walk_page_range)(current->mm, c->start, end, &kz_split_ops, c);
	for (i = 0; i < c->nr_split; i++) {
		struct folio *folio = c->split[i];

		folio_lock(folio);
		if (folio_test_large(folio) && !kz_split(folio))
			c->counts->split++;
		folio_unlock(folio);
		folio_put(folio);
	}
	return err;
}

/* ---- collecting ----------------------------------------------------------------------------- */

static int kz_collect_pmd(pmd_t *pmd, unsigned long addr, unsigned long next, struct mm_walk *walk)
{
	struct kz_call *c = walk->private;
	struct folio *folio;
	struct kz_item *item;
	spinlock_t *ptl;
	int err = 0;

	if (!pmd_trans_huge(*pmd) && !is_swap_pmd(*pmd))
		return 0;
	ptl = pmd_lock(walk->mm, pmd);
	if (is_swap_pmd(*pmd)) { /* migrating: a fault waits for its end */
		c->fault_at = addr;
		err = -EAGAIN;
		goto unlock;
	}
	if (!pmd_trans_huge(*pmd))
		goto unlock;
	folio = page_folio(pmd_page(*pmd));
	if (!folio_test_anon(folio)) { /* the huge zero page */
		walk->action = ACTION_CONTINUE;
	} else if (kz_moves_whole(c, folio, addr, next)) {
		item = kz_item_add(c, addr);
		if (!item) {
			err = -EINVAL;
			goto unlock;
		}
		folio_get(folio);
		item->page = &folio->page;
		item->order = HPAGE_PMD_ORDER;
		c->nr_pages += HPAGE_PMD_NR;
		walk->action = ACTION_CONTINUE;
	} /* else it could not be split: the walker maps it by ptes, and its pages are copied */
unlock:
	spin_unlock(ptl);
	return err;
}

/* Does another process hold this page of the swap cache by a swap entry? Unlocked, its entry could go. */
static bool kz_swap_shared(struct folio *folio)
{
	bool shared;

	if (!folio_test_swapcache(folio) || !folio_trylock(folio))
		return false;
	shared = folio_test_swapcache(folio) && kz_call(swap_count)(kz_folio_swap(folio));
	folio_unlock(folio);
	return shared;
}

static bool kz_must_copy(struct kz_call *c, struct folio *folio)
{
	if (folio_test_large(folio) || folio_test_ksm(folio) || !folio_test_swapbacked(folio))
		return true;
	if (atomic_read(&folio->_mapcount) != 0) /* counted from -1: mapped more than once */
		return true;
	if (kz_swap_shared(folio))
		return true;
	if (folio_ref_count(folio) > 1 + folio_test_swapcache(folio)) {
		c->busy = true; /* a pin, or only the LRU batch of a CPU */
		return true;
	}
	return false;
}

static int kz_collect_page(struct kz_call *c, struct page *page, unsigned long addr)
{
	struct folio *folio = page_folio(page);
	struct kz_item *item;

	if (!folio_test_anon(folio))
		return -EINVAL;
	item = kz_item_add(c, addr);
	if (!item)
		return -EINVAL;
	item->must_copy = kz_must_copy(c, folio);
	get_page(page);
	item->page = page;
	c->nr_pages++;
	return 0;
}

/*
 * Shmem assumes that the swap cache's folio for its entry has the entry's size (shmem_swapin_folio()
 * compares its first entry), and tries forever if the folio is larger. So a huge page that was
 * swapped out must leave the swap cache as a huge page. An entry without such a folio never gets one
 * again.
 */
static bool kz_swap_movable(swp_entry_t swap)
{
	struct folio *folio = kz_call(swap_cache_get_folio)(swap, NULL, 0);
	bool large = folio && folio_test_large(folio);

	if (folio)
		folio_put(folio);
	return !large;
}

static int kz_collect_pte(pte_t *pte, unsigned long addr, unsigned long next, struct mm_walk *walk)
{
	struct kz_call *c = walk->private;
	pte_t entry = ptep_get(pte);
	struct kz_item *item;
	swp_entry_t swap;

	if (pte_none(entry))
		return 0;
	if (pte_present(entry)) {
		if (pte_special(entry)) /* the zero page */
			return 0;
		return kz_collect_page(c, pte_page(entry), addr);
	}
	swap = pte_to_swp_entry(entry);
	/*
	 * Migrating, in a device, or poisoned; shared with another process; or in the swap cache as a
	 * huge page. A fault turns it into a page, waits for it, or reports what is wrong.
	 */
	if (non_swap_entry(swap) || !pte_swp_exclusive(entry) || kz_call(swap_count)(swap) != 1 ||
	    !kz_swap_movable(swap) || kz_call(swap_duplicate)(swap)) {
		c->fault_at = addr;
		return -EAGAIN;
	}
	item = kz_item_add(c, addr);
	if (!item) {
		kz_swap_put(swap);
		return -EINVAL;
	}
	item->swap = swap;
	item->is_swap = true;
	c->nr_swap++;
	return 0;
}

static const struct mm_walk_ops kz_collect_ops = {
	.pmd_entry = kz_collect_pmd,
	.pte_entry = kz_collect_pte,
	KZ_WALK_LOCK
};

int kz_collect(struct kz_call *c, unsigned long end)
{
	int err;

again:
	c->nr_items = 0;
	c->nr_pages = c->nr_swap = 0;
	c->busy = false;
	err = kz_call(walk_page_range)(current->mm, c->start, end, &kz_collect_ops, c);
	if (!err && c->busy && !c->drained) {
		kz_drop(c);
		kz_call(lru_add_drain_all)(); /* expensive: once per call, and only if a batch is in the way */
		c->drained = true;
		c->counts->retried++;
		goto again;
	}
	if (err)
		kz_drop(c);
	return err;
}

void kz_drop(struct kz_call *c)
{
	unsigned int i;

	for (i = 0; i < c->nr_items; i++) {
		struct kz_item *item = &c->items[i];

		if (item->is_swap)
			kz_swap_put(item->swap);
		else
			put_page(item->page);
		if (item->copy)
			folio_put(item->copy);
	}
	c->nr_items = 0;
}
