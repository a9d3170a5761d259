/* Bodies of the verbs of simd.h; included once for each instruction set, with HLM_NAME and HLM_TARGET defined. */

/* S += A'A, upper triangle (a few entries below the diagonal are updated too, with their true values).
 * A: rows x w, S: w x w; w, lda and lds are multiples of 8. Tiles of 4 x 8 sums stay in registers over all rows. */
HLM_TARGET static void HLM_NAME(hlm_rank_update)(ptrdiff_t rows, ptrdiff_t w, const double *A, ptrdiff_t lda, double *S,
                                       ptrdiff_t lds)
{
    for (ptrdiff_t j = 0; j < w; j += 8) {
        for (ptrdiff_t i = 0; i < j + 8; i += 4) {
#ifdef HLM_VECTORS
            hlm_v4 sum[4][2] = {{{0}}};
            const double *a = A;
            for (ptrdiff_t r = 0; r < rows; r++, a += lda) {
                const hlm_v4 x = *(const hlm_v4 *)(a + j), y = *(const hlm_v4 *)(a + j + 4);
                for (int t = 0; t < 4; t++) {
                    sum[t][0] += x * a[i + t];
                    sum[t][1] += y * a[i + t];
                }
            }
            for (int t = 0; t < 4; t++) {
                hlm_v4 *s = (hlm_v4 *)(S + (i + t) * lds + j);
                s[0] += sum[t][0];
                s[1] += sum[t][1];
            }
#else
            double sum[4][8] = {{0}};
            for (ptrdiff_t r = 0; r < rows; r++) {
                const double *a = A + r * lda;
                for (int t = 0; t < 4; t++)
                    for (int c = 0; c < 8; c++) sum[t][c] += a[i + t] * a[j + c];
            }
            for (int t = 0; t < 4; t++)
                for (int c = 0; c < 8; c++) S[(i + t) * lds + j + c] += sum[t][c];
#endif
        }
    }
}

/* P[a] += sum over rows of A[r][z[a]] * A[r], for a < q: the products of q of the columns with all of them.
 * A: rows x w, P: q x w; w is a multiple of 4. */
HLM_TARGET static void HLM_NAME(hlm_select_update)(ptrdiff_t rows, ptrdiff_t w, ptrdiff_t q, const ptrdiff_t *z, const double *A,
                                         double *P)
{
    for (ptrdiff_t a = 0; a < q; a++) {
        double *p = P + a * w;
        const double *col = A + z[a];
#ifdef HLM_VECTORS
        ptrdiff_t j = 0;
        for (; j + 16 <= w; j += 16) {
            hlm_v4 s[4];
            for (int t = 0; t < 4; t++) s[t] = *(hlm_v4 *)(p + j + 4 * t);
            for (ptrdiff_t r = 0; r < rows; r++) {
                const double c = col[r * w];
                for (int t = 0; t < 4; t++) s[t] += *(const hlm_v4 *)(A + r * w + j + 4 * t) * c;
            }
            for (int t = 0; t < 4; t++) *(hlm_v4 *)(p + j + 4 * t) = s[t];
        }
        for (; j < w; j += 4) {
            hlm_v4 s = *(hlm_v4 *)(p + j);
            for (ptrdiff_t r = 0; r < rows; r++) s += *(const hlm_v4 *)(A + r * w + j) * col[r * w];
            *(hlm_v4 *)(p + j) = s;
        }
#else
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t j = 0; j < w; j++) p[j] += col[r * w] * A[r * w + j];
#endif
    }
}

/* X := (I + A D)^-1 F for F = [A | U], q x w: Gaussian elimination with partial pivoting in `G` (q x q scratch).
 * Solving keeps full relative accuracy where A - A N A would cancel (A D large). Returns 0, or 1 + the column without
 * a usable pivot. X enters as a copy of F (or any other right-hand side) with row length w. */
HLM_TARGET static int HLM_NAME(hlm_solve_lu)(ptrdiff_t q, ptrdiff_t w, double *restrict G, double *restrict X)
{
    for (ptrdiff_t c = 0; c < q; c++) {
        ptrdiff_t best = c;
        double top = G[c * q + c] < 0 ? -G[c * q + c] : G[c * q + c];
        for (ptrdiff_t r = c + 1; r < q; r++) {
            const double v = G[r * q + c] < 0 ? -G[r * q + c] : G[r * q + c];
            if (v > top) {
                top = v;
                best = r;
            }
        }
        if (!(top > 0) || top > 1e300) return (int)(c + 1);
        if (best != c) {
            for (ptrdiff_t j = 0; j < q; j++) {
                const double t = G[c * q + j];
                G[c * q + j] = G[best * q + j];
                G[best * q + j] = t;
            }
            for (ptrdiff_t j = 0; j < w; j++) {
                const double t = X[c * w + j];
                X[c * w + j] = X[best * w + j];
                X[best * w + j] = t;
            }
        }
        const double inverse = 1.0 / G[c * q + c];
        for (ptrdiff_t r = c + 1; r < q; r++) {
            const double f = -G[r * q + c] * inverse;
            if (f == 0) continue;
            for (ptrdiff_t j = c + 1; j < q; j++) G[r * q + j] += f * G[c * q + j];
            for (ptrdiff_t j = 0; j < w; j++) X[r * w + j] += f * X[c * w + j];
        }
    }
    for (ptrdiff_t c = q - 1; c >= 0; c--) {
        const double inverse = 1.0 / G[c * q + c];
        for (ptrdiff_t j = 0; j < w; j++) X[c * w + j] *= inverse;
        for (ptrdiff_t r = 0; r < c; r++) {
            const double f = -G[r * q + c];
            for (ptrdiff_t j = 0; j < w; j++) X[r * w + j] += f * X[c * w + j];
        }
    }
    return 0;
}

/* Y := B S, B: q x n (row length ldb), S: n x n symmetric and stored in full (row length lds), Y: q x n (row length n). */
HLM_TARGET static void HLM_NAME(hlm_times_symmetric)(ptrdiff_t q, ptrdiff_t n, const double *restrict B, ptrdiff_t ldb,
                                           const double *restrict S, ptrdiff_t lds, double *restrict Y)
{
    for (ptrdiff_t a = 0; a < q; a++) {
        double *y = Y + a * n;
        for (ptrdiff_t j = 0; j < n; j++) y[j] = 0;
        for (ptrdiff_t i = 0; i < n; i++) {
            const double b = B[a * ldb + i];
            const double *s = S + i * lds;
            for (ptrdiff_t j = 0; j < n; j++) y[j] += b * s[j];
        }
    }
}

/* C := A B, A: m x k, B: k x n, C: m x n, rows one after the other; n is a multiple of 4. */
HLM_TARGET static void HLM_NAME(hlm_product)(ptrdiff_t m, ptrdiff_t k, ptrdiff_t n, const double *A, const double *B,
                                             double *C)
{
    for (ptrdiff_t r = 0; r < m; r++, A += k, C += n) {
#ifdef HLM_VECTORS
        for (ptrdiff_t j = 0; j < n; j += 4) {
            hlm_v4 even = {0}, odd = {0};
            ptrdiff_t i = 0;
            for (; i + 2 <= k; i += 2) {
                even += *(const hlm_v4 *)(B + i * n + j) * A[i];
                odd += *(const hlm_v4 *)(B + (i + 1) * n + j) * A[i + 1];
            }
            if (i < k) even += *(const hlm_v4 *)(B + i * n + j) * A[i];
            *(hlm_v4 *)(C + j) = even + odd;
        }
#else
        for (ptrdiff_t j = 0; j < n; j++) C[j] = 0;
        for (ptrdiff_t i = 0; i < k; i++)
            for (ptrdiff_t j = 0; j < n; j++) C[j] += A[i] * B[i * n + j];
#endif
    }
}

/* (s, t) += a (x, y) for n entries, where s + t and x + y are numbers in twice the working precision (the second part
 * small): the product and the sum are split into what is rounded and what is lost, and the loss is added to t. */
HLM_TARGET static void HLM_NAME(hlm_accurate_update)(ptrdiff_t n, double a, const double *restrict x,
                                                     const double *restrict y, double *restrict s, double *restrict t)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const double p = a * x[i];
        const double e = fma(a, x[i], -p);
        const double old = s[i];
        const double sum = old + p;
        const double z = sum - old;
        t[i] += ((old - (sum - z)) + (p - z)) + (e + a * y[i]);
        s[i] = sum;
    }
}
