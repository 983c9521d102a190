/* tools/compress/budget.c: bits where they help most. */
#include "budget.h"

/* The best step up from the matrix's rate that fits, over one rate or two (a first step may pay little and the second a lot). 0: none. */
static uint32_t best_step(const fs_budget_matrix *m, uint32_t from, uint64_t left, double *gain)
{
    uint32_t best = 0;
    for (uint32_t to = from + 1; to < FS_BUDGET_RATES; to++) {
        uint64_t more = m->bytes[to] - m->bytes[from];
        double saved = m->weight * (m->error[from] - m->error[to]) / (double)(more ? more : 1);
        if (more > left || !(saved > *gain)) continue;
        *gain = saved;
        best = to - from;
    }
    return best;
}

fs_status fs_budget_spend(const fs_budget_matrix *matrix, size_t count, uint64_t budget_bytes,
                          uint8_t *choice)
{
    uint64_t least = 0;
    for (size_t i = 0; i < count; i++) least += matrix[i].bytes[0];
    if (least > budget_bytes) return FS_INVALID;
    uint64_t left = budget_bytes - least;
    for (size_t i = 0; i < count; i++) choice[i] = 0;
    for (;;) {
        size_t at = 0;
        uint32_t step = 0;
        double gain = 0;
        for (size_t i = 0; i < count; i++) {
            uint32_t found = best_step(&matrix[i], choice[i], left, &gain);
            if (found) at = i, step = found;
        }
        if (step == 0) return FS_OK;
        left -= matrix[at].bytes[choice[at] + step] - matrix[at].bytes[choice[at]];
        choice[at] = (uint8_t)(choice[at] + step);
    }
}
