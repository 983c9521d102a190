/* tools/compress/budget.h: which of a layer's matrices get more bits, within a budget: where an error falls most for a byte. */
#ifndef FS_COMPRESS_BUDGET_H
#define FS_COMPRESS_BUDGET_H

#include "base/status.h"

#define FS_BUDGET_RATES 3u /* blocked 1:16, 2:16, 3:16 */

/* One matrix: what it loses and what it takes at each rate, in rising order of bytes. */
typedef struct {
    double error[FS_BUDGET_RATES];
    double weight; /* how often it is used */
    uint64_t bytes[FS_BUDGET_RATES];
} fs_budget_matrix;

/* choice [count] receives an index into the rates. Greedy: every matrix begins at the first rate, then the step that saves most weight * error
 * a byte is taken while it fits; ties go to the lower index. FS_INVALID: the first rates are over the budget already. */
FS_MUST_USE fs_status fs_budget_spend(const fs_budget_matrix *matrix, size_t count, uint64_t budget_bytes,
                                      uint8_t *choice);

#endif
