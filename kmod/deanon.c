// SPDX-License-Identifier: GPL-2.0
/*
 * The engine: appends the anonymous pages of ranges to a shmem file.
 *
 * A range is worked off in chunks. Per chunk, with mmap_lock held for writing:
 *   1. large folios that cannot move whole are split;
 *   2. the page table is walked: a reference on every page, an extra count on every swap entry;
 *   3. everything that can fail is done: the file is charged for what will move, and pages of the
 *      file are allocated for what must be copied (shared, pinned, KSM, MADV_FREE);
 *   4. do_mmap() puts a private mapping of the file over the chunk; the kernel itself unmaps the
 *      old pages, and no fault sees the new mapping before the lock is dropped;
 *   5. the pages become page cache of the file.
 * Invariant: until 4 an error leaves memory and file as they were; after 4 no error ends the
 * chunk before each page has reached the file.
 *
 * Locking: inode_lock for the whole call (nobody else appends, truncates or writes), then
 * mmap_lock, then page table locks, then page locks, then the xarray's lock.
 */
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "compat.h"
#include "deanon.h"

#define KZ_CHUNK 4096UL	     /* pages per hold of mmap_lock */
#define KZ_FAULT_WINDOW 64UL /* pages faulted in before a chunk is walked again */
#define KZ_MAX_RETRIES 1024  /* per range; each faults in at least one page */

struct kz_item {
	union {
		struct page *page; /* we hold a reference */
		swp_entry_t swap;  /* we hold a count */
	};
	struct page *copy_to; /* the file's page, where the content is to be copied */
	u32 rel;	      /* page number in the chunk */
	u8 order;
	bool is_swap;
	bool must_copy;
};

struct kz_call {
	struct file *file;
	struct inode *inode;
	struct address_space *mapping;
	struct kernelzero_counts *counts;
	struct kz_item *items;
	struct folio **split;
	unsigned int nr_items, nr_split, max; /* max is the room in both arrays */
	unsigned long start;		      /* the chunk: its first address */
	pgoff_t index;			      /* and that one's place in the file */
	unsigned long nr_move, nr_swap;	      /* pages to be charged */
	unsigned long nr_copy;
	unsigned long fault_at;		      /* needs faulting in first, with -EAGAIN */
	bool huge, drained, busy;
	bool mapped; /* something of the current range maps the file: no way back */
};

/* ---- 1 and 2: what is there ------------------------------------------------------------- */

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
	pte_t entry = *pte;
	struct folio *folio;

	if (!pte_present(entry) || pte_special(entry))
		return 0;
	folio = page_folio(pte_page(entry));
	if (folio_test_large(folio) && folio_test_anon(folio))
		kz_note_split(walk->private, folio);
	return 0;
}

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
	if (is_swap_pmd(*pmd)) { /* migrating: a fault waits for it */
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
		c->nr_move += HPAGE_PMD_NR;
		walk->action = ACTION_CONTINUE;
	} /* else the folio could not be split: the walker maps it by ptes, they are copied */
unlock:
	spin_unlock(ptl);
	return err;
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
	item->must_copy = folio_test_large(folio) || folio_test_ksm(folio) || !folio_test_swapbacked(folio) ||
			  atomic_read(&folio->_mapcount) != 0; /* counted from -1: more than once */
	if (!item->must_copy && folio_ref_count(folio) > 1 + folio_test_swapcache(folio)) {
		c->busy = true; /* a pin, or only an LRU batch of some CPU */
		item->must_copy = true;
	}
	get_page(page);
	item->page = page;
	if (item->must_copy)
		c->nr_copy++;
	else
		c->nr_move++;
	return 0;
}

static int kz_collect_pte(pte_t *pte, unsigned long addr, unsigned long next, struct mm_walk *walk)
{
	struct kz_call *c = walk->private;
	pte_t entry = *pte;
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
	if (non_swap_entry(swap)) {
		if (kz_is_marker(swap))
			return 0;
		if (!is_migration_entry(swap))
			return -EHWPOISON;
		c->fault_at = addr;
		return -EAGAIN;
	}
	/* Shared with another process, or short of a count: swap it in, then it is a page. */
	if (!pte_swp_exclusive(entry) || kz_sym.swap_count(swap) != 1 || kz_sym.swap_duplicate(swap)) {
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

static const struct mm_walk_ops kz_split_ops = {
	.pmd_entry = kz_find_split_pmd,
	.pte_entry = kz_find_split_pte,
	KZ_WALK_LOCK
};

static const struct mm_walk_ops kz_collect_ops = {
	.pmd_entry = kz_collect_pmd,
	.pte_entry = kz_collect_pte,
	KZ_WALK_LOCK
};

static int kz_split_large(struct kz_call *c, unsigned long end)
{
	unsigned int i;
	int err;

	c->nr_split = 0;
	err = kz_sym.walk_page_range(current->mm, c->start, end, &kz_split_ops, c);
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

/* Give back what kz_collect() took. Nothing has been unmapped. */
static void kz_drop(struct kz_call *c)
{
	unsigned int i;

	for (i = 0; i < c->nr_items; i++) {
		struct kz_item *item = &c->items[i];

		if (item->is_swap)
			kz_swap_put(item->swap);
		else
			put_page(item->page);
		if (item->copy_to)
			put_page(item->copy_to);
	}
	c->nr_items = 0;
}

static int kz_collect(struct kz_call *c, unsigned long end)
{
	int err;

again:
	c->nr_items = 0;
	c->nr_move = c->nr_swap = c->nr_copy = 0;
	c->busy = false;
	err = kz_sym.walk_page_range(current->mm, c->start, end, &kz_collect_ops, c);
	if (!err && c->busy && !c->drained) {
		kz_drop(c);
		kz_sym.lru_add_drain_all(); /* dear: once per call, and only when in the way */
		c->drained = true;
		c->counts->retried++;
		goto again;
	}
	if (err)
		kz_drop(c);
	return err;
}

/* ---- 3: what can fail --------------------------------------------------------------------- */

/* The file's page at index, allocated, zeroed and accounted by shmem itself; referenced. */
static struct page *kz_file_page(struct kz_call *c, pgoff_t index, gfp_t extra)
{
	return shmem_read_mapping_page_gfp(c->mapping, index, mapping_gfp_mask(c->mapping) | extra);
}

/* Drop what shmem's page cache holds of an interval of the file, from mappings of it too. */
static void kz_punch(struct kz_call *c, pgoff_t index, unsigned long nr)
{
	loff_t from = (loff_t)index << PAGE_SHIFT, len = (loff_t)nr << PAGE_SHIFT;

	unmap_mapping_range(c->mapping, from, len, 0);
	shmem_truncate_range(c->inode, from, from + len - 1);
	unmap_mapping_range(c->mapping, from, len, 0);
}

static int kz_reserve(struct kz_call *c)
{
	unsigned int i;

	for (i = 0; i < c->nr_items; i++) {
		struct kz_item *item = &c->items[i];
		struct page *page;

		if (!item->must_copy)
			continue;
		page = kz_file_page(c, c->index + item->rel, 0);
		if (IS_ERR(page))
			return PTR_ERR(page);
		item->copy_to = page;
	}
	if (c->nr_move + c->nr_swap && !kz_charge(c->inode, c->nr_move + c->nr_swap))
		return -ENOSPC;
	return 0;
}

/* shmem_uncharge() leaves nrpages to truncation; here nothing is truncated. */
static void kz_nrpages_sub(struct kz_call *c, long nr)
{
	xa_lock_irq(&c->mapping->i_pages);
	c->mapping->nrpages -= nr;
	xa_unlock_irq(&c->mapping->i_pages);
}

static void kz_uncharge(struct kz_call *c, long nr)
{
	if (!nr)
		return;
	kz_nrpages_sub(c, nr);
	kz_sym.shmem_uncharge(c->inode, nr);
}

/* ---- 5: into the file ----------------------------------------------------------------------- */

static int kz_store(struct kz_call *c, pgoff_t index, unsigned int order, void *entry, struct folio *folio)
{
	XA_STATE_ORDER(xas, &c->mapping->i_pages, index, order);

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

/* A consumer that maps the file may have faulted the hole in: that zero page makes way. */
static void kz_store_swap(struct kz_call *c, pgoff_t index, swp_entry_t swap)
{
	while (kz_store(c, index, 0, swp_to_radix_entry(swap), NULL))
		kz_punch(c, index, 1);
}

/* shmem_charge() counted swapped pages as resident: count them as shmem's swap instead. */
static void kz_count_swapped(struct kz_call *c)
{
	struct shmem_inode_info *info = SHMEM_I(c->inode);

	if (!c->nr_swap)
		return;
	mutex_lock(kz_sym.shmem_swaplist_mutex);
	if (list_empty(&info->swaplist))
		list_add(&info->swaplist, kz_sym.shmem_swaplist);
	mutex_unlock(kz_sym.shmem_swaplist_mutex);
	spin_lock_irq(&info->lock);
	info->swapped += c->nr_swap;
	spin_unlock_irq(&info->lock);
	kz_nrpages_sub(c, c->nr_swap);
}

/* Make an unmapped anonymous folio, held by us alone, the file's. False: it must be copied. */
static bool kz_move(struct kz_call *c, struct folio *folio, pgoff_t index)
{
	long i, nr = folio_nr_pages(folio);
	bool moved = false;

	folio_lock(folio);
	if (!folio_test_anon(folio) || folio_test_ksm(folio) || !folio_test_swapbacked(folio))
		goto unlock;
	folio_wait_writeback(folio);
	if (folio_test_swapcache(folio) && !kz_sym.folio_free_swap(folio))
		goto unlock;
	if (folio_mapped(folio) || folio_ref_count(folio) != 1)
		goto unlock;

	/* Nobody but us and the LRU can find it now. */
	for (i = 0; i < nr; i++)
		ClearPageAnonExclusive(folio_page(folio, i));
	folio_ref_add(folio, nr); /* the page cache's */
	folio->index = index;
	WRITE_ONCE(folio->mapping, c->mapping);
	if (kz_store(c, index, folio_order(folio), folio, folio)) {
		folio->mapping = NULL;
		folio_ref_sub(folio, nr);
		goto unlock;
	}
	folio_mark_uptodate(folio);
	folio_mark_dirty(folio);
	moved = true;
unlock:
	folio_unlock(folio);
	return moved;
}

static void kz_copy_into(struct page *to, struct page *from)
{
	lock_page(to);
	copy_highpage(to, from);
	set_page_dirty(to);
	unlock_page(to);
}

/*
 * A page that looked movable was taken by somebody in between (a pin, a migration). The charge
 * for it is given back just before, so space is short only if another file took it: wait, for
 * the page's holder or for space. Only a process that is being killed may give up its page.
 */
static int kz_copy_late(struct kz_call *c, struct page *from, pgoff_t index)
{
	struct page *to;

	kz_uncharge(c, 1);
	for (;;) {
		to = kz_file_page(c, index, __GFP_NOFAIL);
		if (!IS_ERR(to))
			break;
		if (fatal_signal_pending(current))
			return PTR_ERR(to);
		msleep(1);
	}
	kz_copy_into(to, from);
	put_page(to);
	c->counts->copied++;
	return 0;
}

static int kz_insert_page(struct kz_call *c, struct kz_item *item)
{
	unsigned long i, nr = 1UL << item->order;
	pgoff_t index = c->index + item->rel;
	int err = 0;

	if (item->copy_to) {
		kz_copy_into(item->copy_to, item->page);
		put_page(item->copy_to);
		c->counts->copied++;
	} else if (kz_move(c, page_folio(item->page), index)) {
		c->counts->moved += nr;
		if (item->order)
			c->counts->moved_huge += nr;
	} else {
		for (i = 0; i < nr && !err; i++)
			err = kz_copy_late(c, nth_page(item->page, i), index + i);
		kz_uncharge(c, nr - i);
	}
	put_page(item->page);
	return err;
}

static int kz_insert(struct kz_call *c)
{
	unsigned int i;
	int err = 0, result = 0;

	kz_sym.lru_add_drain();
	kz_count_swapped(c);
	for (i = 0; i < c->nr_items; i++) {
		struct kz_item *item = &c->items[i];

		if (item->is_swap) {
			kz_store_swap(c, c->index + item->rel, item->swap);
			c->counts->swapped++;
		} else {
			err = kz_insert_page(c, item);
			if (err)
				result = err;
		}
		if (!(i & 255))
			cond_resched();
	}
	return result;
}

/* ---- chunks, ranges, calls -------------------------------------------------------------- */

static bool kz_vma_suits(struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma) && !userfaultfd_armed(vma) &&
	       !(vma->vm_flags & (VM_SHARED | VM_GROWSDOWN | VM_HUGETLB | VM_LOCKED | VM_PFNMAP | VM_MIXEDMAP |
				  VM_IO | VM_DONTEXPAND));
}

/* Work off what of [addr, end) lies in one mapping; mmap_lock is held. Pages done, or an error. */
static long kz_chunk(struct kz_call *c, unsigned long addr, unsigned long end)
{
	unsigned long prot = 0, flags = MAP_FIXED | MAP_PRIVATE, ret;
	struct vm_area_struct *vma = find_vma(current->mm, addr);
	long nr_pages, inserted, err;

	if (!vma || vma->vm_start > addr)
		return -ENOMEM;
	if (!kz_vma_suits(vma))
		return -EINVAL;
	end = min3(end, vma->vm_end, addr + (KZ_CHUNK << PAGE_SHIFT));
	nr_pages = (end - addr) >> PAGE_SHIFT;
	c->start = addr;

	err = kz_split_large(c, end);
	if (err)
		return err;
	err = kz_collect(c, end);
	if (err)
		return err;
	err = kz_reserve(c);
	if (err)
		goto undo;

	if (vma->vm_flags & VM_READ)
		prot |= PROT_READ;
	if (vma->vm_flags & VM_WRITE)
		prot |= PROT_WRITE;
	if (vma->vm_flags & VM_EXEC)
		prot |= PROT_EXEC;
	if (vma->vm_flags & VM_NORESERVE)
		flags |= MAP_NORESERVE;
	ret = kz_do_mmap(c->file, addr, end - addr, prot, flags, c->index);
	if (IS_ERR_VALUE(ret)) {
		err = ret;
		vma = find_vma(current->mm, addr);
		if (vma && vma->vm_start <= addr) { /* failed before it unmapped anything */
			kz_uncharge(c, c->nr_move + c->nr_swap);
			goto undo;
		}
	}
	/* If do_mmap() failed after unmapping, the data still goes into the file: it is nowhere else. */
	c->mapped = true;
	c->counts->holes += nr_pages - c->nr_move - c->nr_swap - c->nr_copy;
	inserted = kz_insert(c);
	return err ?: inserted ?: nr_pages;
undo:
	kz_drop(c);
	kz_punch(c, c->index, nr_pages);
	return err;
}

/* Fault in a window of pages from c->fault_at on: shared swap entries, pages being migrated. */
static int kz_fault_in(struct kz_call *c, unsigned long end)
{
	struct mm_struct *mm = current->mm;
	unsigned long addr = c->fault_at;
	bool unlocked = false;
	int err;

	mmap_read_lock(mm);
	do {
		err = fixup_user_fault(mm, addr, 0, &unlocked);
		addr += PAGE_SIZE;
	} while (!err && addr < end && (addr >> PAGE_SHIFT) % KZ_FAULT_WINDOW);
	mmap_read_unlock(mm);
	c->counts->retried++;
	return err;
}

/* Move the whole pages [addr, end) to c->index on; *done grows by the bytes that got there. */
static int kz_move_pages(struct kz_call *c, unsigned long addr, unsigned long end, u64 *done)
{
	int retries = 0, err;
	long pages;

	while (addr < end) {
		if (fatal_signal_pending(current) || mmap_write_lock_killable(current->mm))
			return -EINTR;
		c->fault_at = 0;
		pages = kz_chunk(c, addr, end);
		mmap_write_unlock(current->mm);
		if (pages == -EAGAIN && c->fault_at && retries++ < KZ_MAX_RETRIES) {
			err = kz_fault_in(c, end);
			if (err)
				return err;
			continue;
		}
		if (pages < 0)
			return pages;
		addr += pages << PAGE_SHIFT;
		c->index += pages;
		*done += pages << PAGE_SHIFT;
		cond_resched();
	}
	return 0;
}

/* Copy a partial page; the rest of the file's page stays zero. The caller's page stays its own. */
static int kz_copy_edge(struct kz_call *c, u64 addr, size_t len, loff_t offset)
{
	struct page *page;
	void *bounce, *to;
	int err = 0;

	bounce = kmalloc(len, GFP_KERNEL);
	if (!bounce)
		return -ENOMEM;
	if (copy_from_user(bounce, u64_to_user_ptr(addr), len)) {
		err = -EFAULT;
		goto free;
	}
	page = kz_file_page(c, offset >> PAGE_SHIFT, 0);
	if (IS_ERR(page)) {
		err = PTR_ERR(page);
		goto free;
	}
	lock_page(page);
	to = kmap_local_page(page);
	memcpy(to + offset_in_page(offset), bounce, len);
	kunmap_local(to);
	set_page_dirty(page);
	unlock_page(page);
	put_page(page);
	c->counts->copied++;
free:
	kfree(bounce);
	return err;
}

/* Where the page of addr goes: the file's end, or beyond it where huge pages can move whole. */
static loff_t kz_place(struct kz_call *c, u64 addr, u64 len)
{
	u64 end = round_up(i_size_read(c->inode), PAGE_SIZE);
	u64 first_huge = round_up(addr, HPAGE_PMD_SIZE);

	if (c->huge && first_huge + HPAGE_PMD_SIZE <= addr + len)
		end += (round_down(addr, PAGE_SIZE) - end) & (HPAGE_PMD_SIZE - 1);
	return end;
}

static int kz_range_fill(struct kz_call *c, struct kernelzero_range *r)
{
	u64 addr = r->addr, end = r->addr + r->len;
	u64 first = round_up(addr, PAGE_SIZE), last = round_down(end, PAGE_SIZE);
	int err;

	if (first > last) /* inside one page */
		first = last = end;
	if (addr < first) {
		err = kz_copy_edge(c, addr, first - addr, r->offset);
		if (err)
			return err;
		r->done = first - addr;
	}
	c->index = (r->offset + (first - addr)) >> PAGE_SHIFT;
	err = first < last ? kz_move_pages(c, first, last, &r->done) : 0;
	if (!err && last < end) {
		err = kz_copy_edge(c, last, end - last, r->offset + (last - addr));
		if (!err)
			r->done = r->len;
	}
	return err;
}

static int kz_range(struct kz_call *c, struct kernelzero_range *r)
{
	loff_t old_size = i_size_read(c->inode), base = kz_place(c, r->addr, r->len);
	u64 size = base + offset_in_page(r->addr) + r->len;
	int err;

	if (size > MAX_LFS_FILESIZE)
		return -EFBIG;
	if (SHMEM_I(c->inode)->seals & F_SEAL_GROW)
		return -EPERM;
	err = inode_newsize_ok(c->inode, size);
	if (err)
		return err;
	r->offset = base + offset_in_page(r->addr);
	c->mapped = false;
	i_size_write(c->inode, size);
	err = kz_range_fill(c, r);
	if (err && !c->mapped) { /* nothing needs the growth: take it back */
		i_size_write(c->inode, old_size);
		kz_punch(c, base >> PAGE_SHIFT, DIV_ROUND_UP(size - base, PAGE_SIZE));
		r->done = 0;
	}
	return err;
}

static int kz_check(struct file *file, struct kernelzero_range *ranges, u32 nr, unsigned long *longest)
{
	u32 i;

	if (!kz_is_shmem(file->f_mapping) || !S_ISREG(file_inode(file)->i_mode))
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ) || !(file->f_mode & FMODE_WRITE))
		return -EBADF;
	*longest = 0;
	for (i = 0; i < nr; i++) {
		u64 len = ranges[i].len, end = ranges[i].addr + len;

		ranges[i].offset = ranges[i].done = 0;
		if (!len || end < ranges[i].addr || end > TASK_SIZE)
			return -EINVAL;
		*longest = max_t(unsigned long, *longest, len >> PAGE_SHIFT);
	}
	return 0;
}

int kz_deanon(struct file *file, u32 flags, struct kernelzero_range *ranges, u32 nr, u32 *done,
	      struct kernelzero_counts *counts)
{
	struct kz_call c = {
		.file = file,
		.inode = file_inode(file),
		.mapping = file->f_mapping,
		.counts = counts,
		.huge = flags & KERNELZERO_HUGE,
	};
	unsigned long longest;
	u32 i;
	int err;

	err = kz_check(file, ranges, nr, &longest);
	if (err)
		return err;
	c.max = clamp(longest, 1UL, KZ_CHUNK);
	c.items = kvmalloc_array(c.max, sizeof(*c.items), GFP_KERNEL);
	c.split = kvmalloc_array(c.max, sizeof(*c.split), GFP_KERNEL);
	err = -ENOMEM;
	if (!c.items || !c.split)
		goto free;
	err = -EINTR;
	if (down_write_killable(&c.inode->i_rwsem))
		goto free;
	err = -EPERM;
	if (SHMEM_I(c.inode)->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		goto unlock;
	file_update_time(file);
	kz_sym.lru_add_drain(); /* fresh pages wait in this CPU's batch, which holds references */
	err = 0;
	for (i = 0; i < nr && !err; i++) {
		err = kz_range(&c, &ranges[i]);
		if (!err)
			++*done;
	}
unlock:
	inode_unlock(c.inode);
free:
	kvfree(c.items);
	kvfree(c.split);
	return err;
}
