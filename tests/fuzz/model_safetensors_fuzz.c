/* tests/fuzz/model_safetensors_fuzz.c: a safetensors file. In what passes every byte behind the header
 * belongs to one tensor. */
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fs_tensors *set = NULL;
    fs_detail detail = {0};
    if (fs_safetensors_parse(data, size, size, "fuzz", &set, &detail) != FS_OK) {
        FS_ASSERT(detail.text[0] != '\0' && !set);
        return 0;
    }
    uint64_t at = fs_tensors_count(set) ? fs_tensors_at(set, 0)->file_offset : size;
    for (uint32_t i = 0; i < fs_tensors_count(set); i++) {
        const fs_tensor *t = fs_tensors_at(set, i), *same = NULL;
        FS_ASSERT(t->file_offset == at);
        at += t->size;
        FS_ASSERT(at <= size);
        FS_ASSERT(fs_tensors_find(set, t->name) == t);
        fs_status st = fs_tensors_get(set, t->name, t->num_dims, t->shape, &same, &detail);
        FS_ASSERT(st == FS_INVALID || same == t);
    }
    FS_ASSERT(at == size);
    fs_tensors_close(set);
    return 0;
}
