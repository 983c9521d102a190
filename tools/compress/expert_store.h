/* tools/compress/expert_store.h: finished experts as files of their own in the staged directory, then as the layer's file. */
#ifndef FS_EXPERT_STORE_H
#define FS_EXPERT_STORE_H

#include "journal.h"

/* staging/part-LLLLL-EEEEE, on the disk when it returns. */
FS_MUST_USE fs_status fs_expert_store_save(const char *dir, uint32_t layer, uint32_t expert,
                                           const fs_expert_blobs *blobs, fs_detail *detail);
/* Of the expert's own file or, where it has none that is whole any more, of the layer's. finished: journal's expert row of the layer. blobs:
 * empty before, the caller's to free. FS_NOT_FOUND, FS_CORRUPT: in neither is what the journal says; FS_IO, FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_expert_store_load(const char *dir, uint32_t layer, uint32_t expert,
                                           const fs_journal_expert *finished, fs_expert_blobs *blobs,
                                           fs_detail *detail);
/* experts-layer-LLLLL.safetensors of the parts' files; finished is journal's expert row of the layer. */
FS_MUST_USE fs_status fs_expert_store_merge(const fs_model_config *config, uint32_t layer,
                                            const fs_journal_expert *finished, fs_output *out,
                                            fs_detail *detail);
/* Notes for the index what merge has written. */
FS_MUST_USE fs_status fs_expert_store_note(const fs_model_config *config, uint32_t layer,
                                           const fs_journal_expert *finished, fs_output *out,
                                           fs_detail *detail);
void fs_expert_store_remove(const fs_model_config *config, const char *dir, uint32_t layer);

#endif
