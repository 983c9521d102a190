/* tools/sim/recall.h: how well a trace's visits could have been foretold, had the routes not been known. */
#ifndef FS_SIM_RECALL_H
#define FS_SIM_RECALL_H

#include "pregate/predictor.h"
#include "sim/visits.h"

#define FS_RECALL_MAX_DISTANCE 4u

/* Predictions this many layers ahead, of as many experts as a token visits and of twice as many. */
typedef struct {
    uint32_t distance;
    fs_prediction_score top_k, twice;
} fs_recall;

/* Each token is foretold from the tokens before it, which the predictor has learnt, in the order in which they ran. A model of one layer has none (0).
 * FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_recall_run(const fs_visits *visits, fs_recall out[FS_RECALL_MAX_DISTANCE],
                                    uint32_t *num, fs_detail *detail);

#endif
