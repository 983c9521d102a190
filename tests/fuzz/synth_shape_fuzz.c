/* tests/fuzz/synth_shape_fuzz.c: a config.json as a shape. One that passes writes a config.json of its own, which is refused or means the
 * same. */
#include "synth/synth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const fs_synth_shape *s)
{
    fs_model_config config;
    fs_buffer text = {0};
    fs_synth_config_text(s, FS_SYNTH_BLOCKED_2, &text);
    FS_ASSERT(!text.failed && s->num_kv_heads > 0);
    if (fs_model_config_parse((const char *)text.data, text.size, "config.json", NULL, 0, &config, NULL) ==
        FS_OK) {
        FS_ASSERT(config.hidden_size == s->hidden_size && config.num_layers == s->num_layers);
        FS_ASSERT(config.num_experts == s->num_experts && config.num_kv_heads == s->num_kv_heads);
        FS_ASSERT(config.moe_intermediate_size == s->moe_intermediate_size && config.head_dim == s->head_dim);
    }
    fs_buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fs_synth_shape shape;
    fs_detail detail = {0};
    if (fs_synth_shape_parse((const char *)data, size, "config.json", &shape, &detail) == FS_OK)
        check(&shape);
    else
        FS_ASSERT(detail.text[0] != '\0');
    return 0;
}
