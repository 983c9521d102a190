/* tools/compress/journal.h: what a run has finished, so that another one goes on from there. A line a fact, each with its checksum,
 * on the disk before the fact is relied on; a last line that was cut off by a kill counts as not written. */
#ifndef FS_COMPRESS_JOURNAL_H
#define FS_COMPRESS_JOURNAL_H

#include "expert_job.h"

/* What is known of an expert that is done. */
typedef struct {
    bool done;
    uint64_t checksum; /* of its blobs */
    fs_expert_result result;
} fs_journal_expert;

typedef struct {
    int fd;
    char path[4096];
    bool begun_now; /* there was none */
    uint32_t num_moe_layers, num_experts;
    uint32_t num_layers_done; /* MoE layers whose file is written and behind which the stream was saved */
    uint64_t stream[FS_NUM_PLANES]; /* checksums of the stream behind them */
    fs_journal_expert *expert;      /* [num_moe_layers][num_experts] */
} fs_journal;

/* Opens dir/journal, or begins it. fingerprint: of everything that the output's bytes depend on. FS_INVALID: the journal is of another
 * input or other options; FS_CORRUPT: not a journal. */
FS_MUST_USE fs_status fs_journal_open(const char *dir, const fs_model_config *config, uint64_t fingerprint,
                                      fs_journal *out, fs_detail *detail);
void fs_journal_close(fs_journal *journal);
/* Unlinks it, so that it stays so after a power cut; what it knew stays in memory. FS_IO. */
FS_MUST_USE fs_status fs_journal_remove(fs_journal *journal, fs_detail *detail);
FS_MUST_USE fs_status fs_journal_add_expert(fs_journal *journal, uint32_t moe, uint32_t expert,
                                            uint64_t checksum, const fs_expert_result *result,
                                            fs_detail *detail);
/* The layers are to be gone through again: the stream behind them is lost. Their experts stay finished. */
void fs_journal_rewind(fs_journal *journal);
/* moe: num_layers_done. */
FS_MUST_USE fs_status fs_journal_add_layer(fs_journal *journal, uint32_t moe,
                                           const uint64_t stream[FS_NUM_PLANES], fs_detail *detail);

#endif
