/* SPDX-License-Identifier: GPL-2.0 */
#ifndef KZ_DEANON_H
#define KZ_DEANON_H

#include <linux/fs.h>

#include "kernelzero_uapi.h"

/* Append the ranges to the file. Sets their outputs, *done and *counts, also on error. */
int kz_deanon(struct file *file, u32 flags, struct kernelzero_range *ranges, u32 nr, u32 *done,
	      struct kernelzero_counts *counts);

#endif
