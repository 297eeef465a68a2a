/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The state of one call, which the parts of the engine share, and the steps of a chunk.
 *
 *   deanon.c   the call: ranges, chunks, the mapping
 *   collect.c  the contents of a chunk of the caller's memory
 *   file.c     charging the file, and adding pages and swap entries to it
 */
#ifndef KZ_ENGINE_H
#define KZ_ENGINE_H

#include <linux/mm.h>
#include <linux/swap.h>

#include "deanon.h"

#define KZ_CHUNK 4096UL /* pages per critical section of mmap_lock */

/* A page, huge page or swap entry of the chunk. */
struct kz_item {
	union {
		struct page *page; /* we hold a reference */
		swp_entry_t swap;  /* we hold a count */
	};
	struct folio *copy; /* takes the content, if the page cannot move */
	u32 rel;	    /* page number in the chunk */
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
	pgoff_t index;			      /* the place of that address in the file */
	unsigned long nr_pages, nr_swap;      /* of the chunk: pages to move or copy, swap entries */
	unsigned long fault_at, fault_end;    /* to be faulted in first, with -EAGAIN; the chunk's end */
	bool huge, drained, busy;
	bool mapped; /* part of the current range maps the file: no way back */
};

/* Split the large folios of [c->start, end) that cannot move whole. mmap_lock is held for writing. */
int kz_split_large(struct kz_call *c, unsigned long end);
/* Fill c->items. Holds nothing on error. -EAGAIN: fault in c->fault_at and try again. */
int kz_collect(struct kz_call *c, unsigned long end);
/* Undo kz_collect() and kz_reserve(). Nothing has been unmapped. */
void kz_drop(struct kz_call *c);

/* Charge the file for the chunk and allocate its copies: all steps that can fail. */
int kz_reserve(struct kz_call *c);
void kz_unreserve(struct kz_call *c);
/* Add the unmapped items to the file. False: the caller is being killed, and has lost pages. */
bool kz_insert(struct kz_call *c);
/* Allocate a page for the file, charged to the caller's memory cgroup; not yet in the file. */
struct folio *kz_new_folio(struct kz_call *c, gfp_t extra);
/* Add a new page to the file at index. Consumes the page in every case. */
int kz_add_folio(struct kz_call *c, struct folio *folio, pgoff_t index);
/* Drop the file's pages from index on. */
void kz_truncate(struct kz_call *c, pgoff_t index);

#endif
