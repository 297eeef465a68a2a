// SPDX-License-Identifier: GPL-2.0
/*
 * kernelzero: /dev/kernelzero, its ioctls, and the checks of their arguments.
 *
 * The device has no state. A process that may open it may use it, on its own memory and on files
 * that it has open for writing. The engine is deanon.c.
 */
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "deanon.h"

#define KZ_MAX_RANGES 65536u

static bool allow_untested;
module_param(allow_untested, bool, 0444);
MODULE_PARM_DESC(allow_untested, "load on kernels that kernelzero was not tested with (dangerous)");

/* Read a sized struct, whose first word is the caller's sizeof. */
static int kz_get(void *arg, size_t known, const void __user *user, u32 *size)
{
	if (get_user(*size, (const u32 __user *)user))
		return -EFAULT;
	if (*size < sizeof(u32) || *size > PAGE_SIZE)
		return -EINVAL;
	return copy_struct_from_user(arg, known, user, *size);
}

static int kz_put(const void *arg, size_t known, void __user *user, u32 size)
{
	return copy_to_user(user, arg, min_t(size_t, known, size)) ? -EFAULT : 0;
}

static long kz_ioctl_query(void __user *user)
{
	struct kernelzero_query q;
	u32 size;
	int err = kz_get(&q, sizeof(q), user, &size);

	if (err)
		return err;
	q.version = KERNELZERO_VERSION;
	q.capabilities = KERNELZERO_CAP_HUGE | KERNELZERO_CAP_SWAP;
	q.max_ranges = KZ_MAX_RANGES;
	q.page_size = PAGE_SIZE;
	return kz_put(&q, sizeof(q), user, size);
}

static long kz_ioctl_deanon(void __user *user)
{
	struct kernelzero_range *ranges;
	struct kernelzero_deanon d;
	struct file *file;
	size_t bytes;
	u32 size;
	int err = kz_get(&d, sizeof(d), user, &size);

	if (err)
		return err;
	/* The outputs must fit: without them a caller could not know what happened. */
	if (size < sizeof(d) || d.flags & ~KERNELZERO_HUGE || d.reserved || !d.nr_ranges ||
	    d.nr_ranges > KZ_MAX_RANGES)
		return -EINVAL;
	bytes = array_size(d.nr_ranges, sizeof(*ranges));
	ranges = vmemdup_user(u64_to_user_ptr(d.ranges), bytes);
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	memset(&d.counts, 0, sizeof(d.counts));
	d.ranges_done = 0;

	file = fget(d.fd);
	if (file) {
		err = kz_deanon(file, d.flags, ranges, d.nr_ranges, &d.ranges_done, &d.counts);
		fput(file);
		if (copy_to_user(u64_to_user_ptr(d.ranges), ranges, bytes) && !err)
			err = -EFAULT;
	} else {
		err = -EBADF;
	}
	kvfree(ranges);
	if (kz_put(&d, sizeof(d), user, size) && !err)
		err = -EFAULT;
	return err;
}

static long kz_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case KERNELZERO_QUERY:
		return kz_ioctl_query(user);
	case KERNELZERO_DEANON:
		return kz_ioctl_deanon(user);
	}
	return -ENOTTY;
}

static const struct file_operations kz_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = kz_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice kz_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kernelzero",
	.fops = &kz_fops,
	.mode = 0660,
};

static int __init kz_init(void)
{
	int err;

	if (!KZ_TESTED && !allow_untested) {
		pr_err("kernelzero: tested with Linux 6.1 and 6.12 only; allow_untested=1 loads it anyway\n");
		return -EOPNOTSUPP;
	}
	err = kz_symbols_init();
	return err ? err : misc_register(&kz_device);
}

static void __exit kz_exit(void)
{
	misc_deregister(&kz_device);
}

module_init(kz_init);
module_exit(kz_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Moves anonymous memory into a memfd without copying");
MODULE_VERSION("1");
