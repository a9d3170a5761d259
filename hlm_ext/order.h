/* Work shared in a fixed order: threads take the next piece from a counter, and wait for pieces that theirs depends on.
 *
 * A piece depends only on earlier ones, which some thread has taken already, so waiting always ends. Against a barrier
 * after each step this loses less where other processes keep a thread from running.
 */
#ifndef HLM_EXT_ORDER_H
#define HLM_EXT_ORDER_H

#include <stddef.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#include <windows.h>
static __inline ptrdiff_t hlm_take(volatile ptrdiff_t *counter)
{
    return (ptrdiff_t)_InterlockedExchangeAdd64((volatile __int64 *)counter, 1);
}
static __inline void hlm_set(volatile int *flag, int value) { _InterlockedExchange((volatile long *)flag, value); }
static __inline int hlm_get(volatile int *flag) { return (int)_InterlockedOr((volatile long *)flag, 0); }
static __inline void hlm_yield(void) { SwitchToThread(); }
#else
#include <sched.h>
static inline ptrdiff_t hlm_take(volatile ptrdiff_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }
static inline void hlm_set(volatile int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_RELEASE); }
static inline int hlm_get(volatile int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
static inline void hlm_yield(void) { sched_yield(); }
#endif

#endif
