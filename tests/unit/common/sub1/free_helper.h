/* tests/unit/common/sub1/free_helper.h: random ternary matrices of every kind of sparsity, their *free* blobs, products with them. */
#ifndef FREE_HELPER_H
#define FREE_HELPER_H

#include "base/random.h"
#include "sub1/free_int.h"

/* How nonzeros lie. CLUSTERED: runs of zeros and of weights, each row its own; BANDED: the same columns in every row; UNEVEN: each row a
 * density of its own, some 0, some 1; EDGES: only at a row's ends. */
typedef enum { FREE_EVEN, FREE_CLUSTERED, FREE_BANDED, FREE_UNEVEN, FREE_EDGES, FREE_KINDS } free_kind;

/* w [rows][cols]: every row has its own two scales; row 0 only positive weights, row 1 only negative ones. */
void random_free(fs_random *random, free_kind kind, float density, uint32_t rows, uint32_t cols, float *w);

/* The blob of w, FS_SUB1_ALIGN-aligned; the caller's to free(). */
uint8_t *encode_free(const float *w, uint32_t rows, uint32_t cols, size_t *size);

/* Rows of x and y for products with one matrix. Every row is memory of its own, no longer than it says. */
typedef struct {
    uint32_t num_rows, cols, y_rows;
    int8_t **x;
    float *x_scale, **y;
} free_rows;

/* extreme: 0 random, 1 all 127, 2 all -127, 3 only those two, 4 also -128, which no quantiser makes. */
free_rows new_free_rows(const fs_sub1_matrix *m, uint32_t num_rows, fs_random *random, int extreme);
void free_free_rows(free_rows *rows);

/* y = 0xff..., then the product. */
void multiply_free(const fs_sub1_kernels *kernels, const fs_sub1_matrix *m, free_rows *rows);
/* Whether y of both are the same bits; a scale that makes inf - inf gives any NaN. */
bool same_free_rows(const free_rows *a, const free_rows *b);

/* The wide kernels that this machine can run. */
uint32_t usable_kernels(const fs_sub1_kernels *out[4]);

#endif
