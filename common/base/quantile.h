/* common/base/quantile.h: quantiles of measured numbers. */
#ifndef FS_BASE_QUANTILE_H
#define FS_BASE_QUANTILE_H

#include <stddef.h>

/* The value that a share q (0 to 1) of the values is below, by the nearest rank; 0 of none. Sorts the values, which are not NaN. */
double fs_quantile(double *values, size_t count, double q);

#endif
