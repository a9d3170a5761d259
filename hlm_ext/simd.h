/* Row-major verbs whose inner loops are worth vector registers.
 *
 * On x86-64 each verb is compiled twice, and the first call picks what this processor can run (AVX2 with fused
 * multiply-add, or the baseline): a wheel for any machine of the architecture stays fast on a new one.
 * Each verb adds its products in one fixed order, so a result never depends on the number of threads.
 */
#ifndef HLM_EXT_SIMD_H
#define HLM_EXT_SIMD_H

#include <math.h>
#include <stddef.h>

#if defined(__GNUC__) || defined(__clang__)
typedef double hlm_v4 __attribute__((vector_size(32), aligned(8), may_alias));
#define HLM_VECTORS 1
#endif

/* MSVC spells it otherwise. */
#if defined(_MSC_VER) && !defined(__clang__)
#define restrict __restrict
#endif

/* y += a x over n entries: the inner loop of small triangular solves and products. */
static inline void hlm_axpy(ptrdiff_t n, double a, const double *restrict x, double *restrict y)
{
    for (ptrdiff_t i = 0; i < n; i++) y[i] += a * x[i];
}

#define HLM_TARGET
#define HLM_NAME(name) name##_base
#include "simd_body.h"
#undef HLM_TARGET
#undef HLM_NAME

#if defined(__x86_64__) && defined(HLM_VECTORS)
#define HLM_TARGET __attribute__((target("avx2,fma")))
#define HLM_NAME(name) name##_avx2
#include "simd_body.h"
#undef HLM_TARGET
#undef HLM_NAME

static inline int hlm_has_avx2(void)
{
    static int known = -1; /* written with the same value whichever thread comes first */
    if (known < 0) {
        __builtin_cpu_init();
        known = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    return known;
}
#define HLM_CALL(name, ...) (hlm_has_avx2() ? name##_avx2(__VA_ARGS__) : name##_base(__VA_ARGS__))
#else
#define HLM_CALL(name, ...) name##_base(__VA_ARGS__)
#endif

static inline void hlm_rank_update(ptrdiff_t rows, ptrdiff_t w, const double *A, ptrdiff_t lda, double *S, ptrdiff_t lds)
{
    HLM_CALL(hlm_rank_update, rows, w, A, lda, S, lds);
}

static inline void hlm_select_update(ptrdiff_t rows, ptrdiff_t w, ptrdiff_t q, const ptrdiff_t *z, const double *A,
                                     double *P)
{
    HLM_CALL(hlm_select_update, rows, w, q, z, A, P);
}

static inline int hlm_solve_lu(ptrdiff_t q, ptrdiff_t w, double *G, double *X)
{
    return HLM_CALL(hlm_solve_lu, q, w, G, X);
}

static inline void hlm_times_symmetric(ptrdiff_t q, ptrdiff_t n, const double *B, ptrdiff_t ldb, const double *S,
                                       ptrdiff_t lds, double *Y)
{
    HLM_CALL(hlm_times_symmetric, q, n, B, ldb, S, lds, Y);
}

static inline void hlm_product(ptrdiff_t m, ptrdiff_t k, ptrdiff_t n, const double *A, const double *B, double *C)
{
    HLM_CALL(hlm_product, m, k, n, A, B, C);
}

static inline void hlm_accurate_update(ptrdiff_t n, double a, const double *x, const double *y, double *s, double *t)
{
    HLM_CALL(hlm_accurate_update, n, a, x, y, s, t);
}

#endif
