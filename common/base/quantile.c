/* common/base/quantile.c: see quantile.h. */
#include "base/quantile.h"

#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double fs_quantile(double *values, size_t count, double q)
{
    if (count == 0) return 0;
    qsort(values, count, sizeof(*values), compare);
    size_t rank = (size_t)(q * (double)count);
    return values[rank < count ? rank : count - 1];
}
