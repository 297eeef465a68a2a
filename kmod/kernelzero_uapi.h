/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface of /dev/kernelzero.
 *
 * Every struct starts with its own size. A caller sets it to sizeof; the module accepts
 * a shorter struct of an older caller (the rest reads as zero) and a longer one of a newer
 * caller if the fields it does not know are zero (else E2BIG). Fields are only ever appended.
 */
#ifndef KERNELZERO_UAPI_H
#define KERNELZERO_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KERNELZERO_VERSION 1

/* capabilities */
#define KERNELZERO_CAP_HUGE (1ULL << 0) /* whole huge pages can move */
#define KERNELZERO_CAP_SWAP (1ULL << 1) /* swap entries move without swap-in */

struct kernelzero_query {
	__u32 size;	    /* in: sizeof */
	__u32 version;	    /* out: KERNELZERO_VERSION of the module */
	__u64 capabilities; /* out */
	__u32 max_ranges;   /* out: maximum number of ranges in one call */
	__u32 page_size;    /* out */
};

/* flags */
#define KERNELZERO_HUGE (1U << 0) /* choose file offsets so that huge pages move whole */

struct kernelzero_range {
	__u64 addr;   /* in: first byte, any alignment */
	__u64 len;    /* in: bytes, not 0 */
	__u64 offset; /* out: the file offset of the byte at addr */
	__u64 done;   /* out: bytes from addr on that are in the file; len on success */
};

/* In pages; split: large folios split; retried: chunks walked again. */
struct kernelzero_counts {
	__u64 moved;	  /* moved without a copy; includes moved_huge */
	__u64 moved_huge; /* of these, inside whole huge pages */
	__u64 swapped;	  /* moved as swap entries */
	__u64 copied;	  /* shared, pinned or edge pages; a huge page counts whole */
	__u64 holes;	  /* no page, or the zero page */
	__u64 split;
	__u64 retried;
};

/*
 * Append ranges of the caller's anonymous memory to the end of a memfd, in order. Whole pages
 * move, and the range becomes a private mapping of the file. The partial first and last page of a
 * range are copied, zero-padded, and stay the caller's; ranges that adjoin at a page boundary count
 * as one range. The file's size grows as data arrives. The call stops at the first error;
 * ranges_done and each range's done then say how far it got. The caller's memory maps the data that
 * is in the file by then, so the file must not be truncated. The memory reads the same before and
 * after, whatever the result.
 *
 * EINVAL  arguments, memory of another kind (a file's already, shared, executable, locked, with a
 *	   protection key or userfaultfd, MADV_DONTFORK, DONTDUMP, WIPEONFORK), or not a memfd
 * ENOMEM  nothing mapped there, or no memory; EFAULT an edge, or shared swapped memory, is not readable
 * ENOSPC  file system full, or commit limit; EFBIG file size limit
 * EPERM   sealed; EACCES a security module forbids it; EBADF not open for reading and writing
 * EAGAIN  swapped pages did not stay in memory: try again
 * EINTR   a fatal signal
 */
struct kernelzero_deanon {
	__u32 size;	   /* in: sizeof */
	__s32 fd;	   /* in: memfd */
	__u32 flags;	   /* in: KERNELZERO_HUGE */
	__u32 nr_ranges;   /* in */
	__u64 ranges;	   /* in: pointer to kernelzero_range[nr_ranges] */
	__u32 ranges_done; /* out */
	__u32 reserved;	   /* in: 0 */
	struct kernelzero_counts counts; /* out */
};

/* The struct has its size, so that the numbers stay the same when structs grow. */
#define KERNELZERO_QUERY _IO('Z', 0x40)
#define KERNELZERO_DEANON _IO('Z', 0x41)

#endif
