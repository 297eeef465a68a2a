// SPDX-License-Identifier: GPL-2.0
/*
 * The engine: appends the anonymous pages of ranges to a shmem file.
 *
 * A range is processed in chunks, which end between huge pages. Per chunk, with mmap_lock held
 * for writing:
 *   1. large folios that cannot move whole are split;
 *   2. the page table is walked: a reference on every page, an extra count on every swap entry;
 *   3. all steps that can fail are done: the file is charged for all pages, and pages are
 *      allocated for those that must be copied (shared, pinned, KSM, MADV_FREE);
 *   4. do_mmap() puts a private mapping of the file over the chunk; the kernel itself unmaps the
 *      old pages, and no fault sees the new mapping before the lock is dropped;
 *   5. the pages become page cache of the file, and its size grows over them.
 * Invariant: before 4 an error leaves memory and file as they were; after 4 every page reaches
 * the file, unless the process is being killed.
 *
 * The file is long because these steps share one state and one order, which is what is safe here.
 *
 * Locking: inode_lock for the whole call (no other task appends, truncates, writes or seals), then
 * mmap_lock, then page table locks, then folio locks, then the xarray's lock.
 */
#include <linux/fsnotify.h>
#include <linux/highmem.h>
#include <linux/mman.h>
#include <linux/personality.h>
#include <linux/pkeys.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "compat.h"
#include "engine.h"
#include "fault.h"

#define KZ_FAULT_WINDOW 64UL /* pages faulted in before a chunk is walked again */
#define KZ_MAX_RETRIES 1024  /* per chunk; a page faulted in can be swapped out again */

/* Flags that a private mapping of a file cannot have, or that it would lose. */
#define KZ_UNSUITED                                                                                          \
	(VM_SHARED | VM_EXEC | VM_GROWSDOWN | VM_HUGETLB | VM_LOCKED | VM_PFNMAP | VM_MIXEDMAP | VM_IO |             \
	 VM_DONTEXPAND | VM_DONTCOPY | VM_DONTDUMP | VM_WIPEONFORK | KZ_VM_NEW)

KZ_FAULT_POINT(map);
KZ_FAULT_POINT(gap);

/* ---- a chunk ---------------------------------------------------------------------------------- */

static bool kz_vma_suits(struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma) && !userfaultfd_armed(vma) && !vma_pkey(vma) &&
	       !(vma->vm_flags & KZ_UNSUITED);
}

static bool kz_still_mapped(unsigned long addr)
{
	struct vm_area_struct *vma = find_vma(current->mm, addr);

	return vma && vma->vm_start <= addr;
}

/*
 * Map the file over the chunk. If mmap_region() fails after it has unmapped the old pages (no memory,
 * or under strict overcommit another process took the commit charge just given back), there is no way
 * back: it is repeated until it succeeds, or the process is being killed.
 */
static int kz_map(struct kz_call *c, struct vm_area_struct *vma, unsigned long end)
{
	unsigned long prot = 0, flags = MAP_FIXED | MAP_PRIVATE, ret;

	if (vma->vm_flags & VM_READ)
		prot |= PROT_READ;
	if (vma->vm_flags & VM_WRITE)
		prot |= PROT_WRITE;
	if (vma->vm_flags & VM_NORESERVE)
		flags |= MAP_NORESERVE;
	if (KZ_FAILS(map))
		return -ENOMEM;
	if (KZ_FAILS(gap))
		kz_fault_unmap(c->start, end - c->start);
	for (;;) {
		ret = kz_do_mmap(c->file, c->start, end - c->start, prot, flags, c->index);
		if (!IS_ERR_VALUE(ret))
			return 0;
		if (kz_still_mapped(c->start) || fatal_signal_pending(current))
			return ret;
		schedule_timeout_killable(1);
	}
}

/* All data below this size is in the file: publish the size. */
static void kz_grow(struct kz_call *c, u64 size)
{
	if (size > i_size_read(c->inode))
		i_size_write(c->inode, size);
}

/* Process the part of [addr, end) in one mapping; mmap_lock is held. Returns pages done or an error. */
static long kz_chunk(struct kz_call *c, unsigned long addr, unsigned long end)
{
	struct vm_area_struct *vma = find_vma(current->mm, addr);
	long nr_pages;
	bool whole;
	int err;

	if (!vma || vma->vm_start > addr)
		return -ENOMEM;
	/* do_mmap() would lock the new mapping or make it executable. */
	if (!kz_vma_suits(vma) || current->mm->def_flags & VM_LOCKED || current->personality & READ_IMPLIES_EXEC)
		return -EINVAL;
	end = min3(end, vma->vm_end, round_down(addr + (KZ_CHUNK << PAGE_SHIFT), HPAGE_PMD_SIZE));
	c->fault_end = end;
	nr_pages = (end - addr) >> PAGE_SHIFT;
	c->start = addr;

	err = kz_split_large(c, end);
	if (!err)
		err = kz_collect(c, end);
	if (err)
		return err;
	err = kz_reserve(c);
	if (err)
		goto drop;
	err = kz_map(c, vma, end);
	if (err && kz_still_mapped(addr)) {
		kz_unreserve(c);
		goto drop;
	}
	c->mapped = true;
	c->counts->holes += nr_pages - c->nr_pages - c->nr_swap;
	whole = kz_insert(c);
	kz_grow(c, (u64)(c->index + nr_pages) << PAGE_SHIFT);
	return err ?: whole ? nr_pages : -EINTR;
drop:
	kz_drop(c);
	return err;
}

/* ---- a range ---------------------------------------------------------------------------------- */

/* Fault in a window of pages from c->fault_at on: shared swap entries, pages being migrated. */
static int kz_fault_in(struct kz_call *c)
{
	struct mm_struct *mm = current->mm;
	unsigned long addr = c->fault_at;
	bool unlocked = false;
	int err;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	err = fixup_user_fault(mm, addr, 0, &unlocked);
	for (addr += PAGE_SIZE; !err && addr < c->fault_end && (addr >> PAGE_SHIFT) % KZ_FAULT_WINDOW; addr += PAGE_SIZE)
		if (fixup_user_fault(mm, addr, 0, &unlocked))
			break; /* processed later */
	mmap_read_unlock(mm);
	c->counts->retried++;
	return err;
}

/* Move the whole pages [addr, end) to c->index on; add the bytes moved to *done. */
static int kz_move_pages(struct kz_call *c, unsigned long addr, unsigned long end, u64 *done)
{
	int retries = 0, err;
	long pages;

	while (addr < end) {
		if (mmap_write_lock_killable(current->mm))
			return -EINTR;
		c->fault_at = 0;
		/* Checked under the lock: earlier, the OOM reaper could punch holes into a dying process. */
		pages = fatal_signal_pending(current) ? -EINTR : kz_chunk(c, addr, end);
		mmap_write_unlock(current->mm);
		if (pages == -EAGAIN && c->fault_at && retries++ < KZ_MAX_RETRIES) {
			err = kz_fault_in(c);
			if (err)
				return err;
			continue;
		}
		if (pages < 0)
			return pages;
		retries = 0;
		addr += pages << PAGE_SHIFT;
		c->index += pages;
		*done += pages << PAGE_SHIFT;
		cond_resched();
	}
	return 0;
}

/*
 * Copy a partial page; the rest of the file's page is zero. The caller's page stays its own. The file
 * does not grow yet: under F_SEAL_SHRINK it could not shrink again if the range's pages fail.
 */
static int kz_copy_edge(struct kz_call *c, u64 addr, size_t len, u64 offset)
{
	struct folio *folio = kz_new_folio(c, 0);
	unsigned long left;
	void *to;
	int err;

	if (!folio)
		return -ENOMEM;
	to = kmap_local_folio(folio, 0);
	memset(to, 0, PAGE_SIZE);
	left = copy_from_user(to + offset_in_page(offset), u64_to_user_ptr(addr), len);
	kunmap_local(to);
	if (left) {
		folio_put(folio);
		return -EFAULT;
	}
	err = kz_add_folio(c, folio, offset >> PAGE_SHIFT);
	if (err)
		return err;
	c->counts->copied++;
	return 0;
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
	if (!err)
		kz_grow(c, r->offset + r->len);
	return err;
}

/*
 * The place of addr's page: the file's end, or beyond it so that huge pages can move whole, or if the
 * file's last page is part of a huge page.
 */
static u64 kz_place(struct kz_call *c, u64 addr, u64 len)
{
	u64 end = round_up(i_size_read(c->inode), PAGE_SIZE);
	u64 first_huge = round_up(addr, HPAGE_PMD_SIZE);

	if (xa_load(&c->mapping->i_pages, end >> PAGE_SHIFT))
		end = round_up(end, HPAGE_PMD_SIZE);
	if (c->huge && first_huge + HPAGE_PMD_SIZE <= addr + len)
		end += (round_down(addr, PAGE_SIZE) - end) & (HPAGE_PMD_SIZE - 1);
	return end;
}

static int kz_range(struct kz_call *c, struct kernelzero_range *r)
{
	struct shmem_inode_info *info = SHMEM_I(c->inode);
	u64 base = kz_place(c, r->addr, r->len), size = base + offset_in_page(r->addr) + r->len;
	pgoff_t fallocend = info->fallocend;
	u64 copied = c->counts->copied;
	int err;

	if (size > MAX_LFS_FILESIZE)
		return -EFBIG;
	if (info->seals & F_SEAL_GROW)
		return -EPERM;
	err = inode_newsize_ok(c->inode, size);
	if (err)
		return err;
	r->offset = base + offset_in_page(r->addr);
	c->mapped = false;
	/* As fallocate(KEEP_SIZE): otherwise split_huge_page() drops pages beyond the size. */
	info->fallocend = DIV_ROUND_UP(size, PAGE_SIZE);
	err = kz_range_fill(c, r);
	if (err && !c->mapped) { /* a copied edge is not visible yet: remove it */
		kz_truncate(c, DIV_ROUND_UP(i_size_read(c->inode), PAGE_SIZE));
		c->counts->copied = copied;
		r->done = 0;
	}
	info->fallocend = fallocend;
	return err;
}

/* ---- a call ------------------------------------------------------------------------------------ */

/*
 * Files whose size is accounted in advance (no VM_NORESERVE: /dev/zero, SysV) cannot grow. Files that
 * cannot swap (SHM_LOCK, tmpfs noswap) must not get swap entries. For a file that borrows another
 * inode's mapping, this inode's lock protects nothing.
 */
static bool kz_file_suits(struct file *file)
{
	struct address_space *mapping = file->f_mapping;

	return kz_is_shmem(mapping) && mapping->host == file_inode(file) && S_ISREG(mapping->host->i_mode) &&
	       !mapping_unevictable(mapping) && SHMEM_I(mapping->host)->flags & VM_NORESERVE;
}

/* Whether two ranges adjoin at a page boundary: then one mapping serves both. */
static bool kz_adjacent(const struct kernelzero_range *a, const struct kernelzero_range *b)
{
	return a->addr + a->len == b->addr && PAGE_ALIGNED(b->addr);
}

static int kz_check(struct file *file, struct kernelzero_range *ranges, u32 nr, unsigned long *longest)
{
	u64 run = 0;
	u32 i;

	if (!kz_file_suits(file))
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ) || !(file->f_mode & FMODE_WRITE))
		return -EBADF;
	*longest = 0;
	for (i = 0; i < nr; i++) {
		u64 len = ranges[i].len, end = ranges[i].addr + len;

		ranges[i].offset = ranges[i].done = 0;
		if (!len || end < ranges[i].addr || end > TASK_SIZE)
			return -EINVAL;
		run = i && kz_adjacent(&ranges[i - 1], &ranges[i]) ? run + len : len;
		*longest = max_t(unsigned long, *longest, run >> PAGE_SHIFT);
	}
	return 0;
}

/* Prepare for a write, as shmem_file_write_iter(); and drop pages beyond the end of the file. */
static int kz_begin(struct kz_call *c)
{
	pgoff_t end = DIV_ROUND_UP(i_size_read(c->inode), PAGE_SIZE), beyond = end;
	int err;

	if (SHMEM_I(c->inode)->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return -EPERM;
	err = file_remove_privs(c->file);
	if (!err)
		err = file_update_time(c->file);
	if (!err && xa_find(&c->mapping->i_pages, &beyond, ULONG_MAX, XA_PRESENT))
		kz_truncate(c, end); /* allocated in advance by fallocate() */
	return err;
}

/*
 * Move the first range, and those that follow it without a gap, as one range. If that fails with
 * nothing moved, move them one by one, to find out which of them fails. *done counts whole ranges.
 */
static int kz_run(struct kz_call *c, struct kernelzero_range *r, u32 nr, u32 *done)
{
	struct kernelzero_range all = { .addr = r->addr };
	u32 i, n = 0;
	int err;

	do {
		all.len += r[n++].len;
	} while (n < nr && kz_adjacent(&r[n - 1], &r[n]));
	err = kz_range(c, &all);
	if (err && n > 1 && !c->mapped) {
		for (i = 0, err = 0; i < n && !err; i++) {
			err = kz_range(c, &r[i]);
			*done += !err;
		}
		return err;
	}
	for (i = 0; i < n; i++) {
		u64 before = r[i].addr - all.addr;

		if (all.done <= before)
			break;
		r[i].offset = all.offset + before;
		r[i].done = min_t(u64, all.done - before, r[i].len);
		*done += r[i].done == r[i].len;
	}
	return err;
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
	int err;

	err = kz_check(file, ranges, nr, &longest);
	if (!err)
		err = kz_security(file);
	if (err)
		return err;
	c.max = clamp(longest, 1UL, KZ_CHUNK);
	c.items = kvmalloc_array(c.max, sizeof(*c.items), GFP_KERNEL);
	c.split = kvmalloc_array(c.max, sizeof(*c.split), GFP_KERNEL);
	err = -ENOMEM;
	if (!c.items || !c.split)
		goto free;
	err = -EINTR;
	file_start_write(file);
	if (down_write_killable(&c.inode->i_rwsem))
		goto end_write;
	err = kz_begin(&c);
	if (err)
		goto unlock;
	kz_call(lru_add_drain)(); /* new pages are in this CPU's batch, which holds references */
	while (*done < nr && !err)
		err = kz_run(&c, ranges + *done, nr - *done, done);
	if (counts->moved + counts->copied + counts->swapped + counts->holes)
		fsnotify_modify(file);
unlock:
	inode_unlock(c.inode);
end_write:
	file_end_write(file);
free:
	kvfree(c.items);
	kvfree(c.split);
	return err;
}
