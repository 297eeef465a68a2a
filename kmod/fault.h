/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Error injection for the tests' build (-DKZ_FAULTS). A fault point NAME makes a module parameter
 * fail_NAME; writing n makes the n-th pass of KZ_FAILS(NAME) true. Other builds have no trace of it.
 */
#ifndef KZ_FAULT_H
#define KZ_FAULT_H

#ifdef KZ_FAULTS
#include <linux/moduleparam.h>
#define KZ_FAULT_POINT(name)                                                                                 \
	static int fail_##name;                                                                              \
	module_param(fail_##name, int, 0600)
#define KZ_FAILS(name) (fail_##name > 0 && --fail_##name == 0)
/* The state that mmap_region() leaves when it fails late; mmap_lock is held. */
#define kz_fault_unmap(addr, len) kz_call(do_munmap)(current->mm, addr, len, NULL)
#else
#define KZ_FAULT_POINT(name) static_assert(true)
#define KZ_FAILS(name) false
#define kz_fault_unmap(addr, len) ((void)(addr), (void)(len))
#endif

#endif
