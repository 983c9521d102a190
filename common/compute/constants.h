/* common/compute/constants.h: the numbers of the fixed polynomials. Nothing but #define, so that a CUDA kernel reads them too. */
#ifndef FS_COMPUTE_CONSTANTS_H
#define FS_COMPUTE_CONSTANTS_H

/* exp(x) = 2^n * e^r, n = round(x / ln 2), |r| <= ln(2)/2. The polynomial is Cephes' expf (Moshier), evaluated with fma.
 * Outside [LO, HI] the result is 0 or inf and x is clamped, so that n fits. */
#define FS_EXP_HI     89.0f
#define FS_EXP_LO     (-104.0f)
#define FS_EXP_LOG2E  0x1.715476p0f
#define FS_EXP_LN2_HI 0x1.62e400p-1f
#define FS_EXP_LN2_LO 0x1.7f7d1cp-20f
#define FS_EXP_C5     1.9875691500e-4f
#define FS_EXP_C4     1.3981999507e-3f
#define FS_EXP_C3     8.3334519073e-3f
#define FS_EXP_C2     4.1665795894e-2f
#define FS_EXP_C1     1.6666665459e-1f
#define FS_EXP_C0     5.0000001201e-1f
#define FS_ROUND_MAGIC                                                                                       \
    12582912.0f /* 1.5 * 2^23: adding it rounds to the nearest even integer, found in the low bits */
#define FS_ROUND_BITS 0x4b400000

#define FS_I8_MAX   127
#define FS_AMAX_MIN 1e-8f

#endif
