/* common/sub1/files.h: where the experts of a model directory lie, and how one is opened. Knows both storages. */
#ifndef FS_SUB1_FILES_H
#define FS_SUB1_FILES_H

#include "model/names.h"
#include "model/safetensors.h"
#include "sub1/expert.h"

/* An expert's bytes in a file: one contiguous range for sub1 (parts gate, up, down in this order, each FS_SUB1_ALIGN-aligned, start
 * aligned to FS_EXPERT_FILE_ALIGN); for dense storage the three tensors' envelope is not contiguous and bytes is their sum. */
#define FS_EXPERT_FILE_ALIGN 512u
typedef struct {
    uint32_t file;   /* index in fs_tensors */
    uint64_t offset; /* of the first part (sub1) */
    uint64_t bytes;  /* in the file, padding between the parts included */
    const fs_tensor *part[3];
} fs_expert_range;

/* Finds the tensors of an expert and checks dtype and shape. layer: decoder layer number. */
FS_MUST_USE fs_status fs_expert_find(const fs_model_config *config, const fs_tensors *tensors, uint32_t layer,
                                     uint32_t expert, fs_expert_range *out, fs_detail *detail);
/* Opens an expert on the mapping: for sub1 verifies each part's checksum and contents (fs_sub1_open) and that their shapes are
 * the model's. widened: memory for float16 parts, taken by the caller (free()); NULL when not needed. */
FS_MUST_USE fs_status fs_expert_open(const fs_model_config *config, const fs_expert_range *range,
                                     fs_expert *out, void **widened, fs_detail *detail);
/* The same for sub1 bytes that were read to other memory (a cache slot): range->bytes of them, FS_SUB1_ALIGN-aligned, borrowed for as
 * long as the expert is used. */
FS_MUST_USE fs_status fs_expert_open_bytes(const fs_model_config *config, const fs_expert_range *range,
                                           const uint8_t *bytes, fs_expert *out, fs_detail *detail);

/* The same for both storages, with each part in memory of its own: part[i] has range->part[i]->size bytes, FS_SUB1_ALIGN-aligned, borrowed
 * for as long as the expert is used. What a mapping of the file would show is not looked at. */
FS_MUST_USE fs_status fs_expert_open_parts(const fs_model_config *config, const fs_expert_range *range,
                                           const uint8_t *const part[3], fs_expert *out, void **widened,
                                           fs_detail *detail);
/* What widened would take at most; 0 where every part is used as it is. */
size_t fs_expert_widened_bytes(const fs_model_config *config, const fs_expert_range *range);

#endif
