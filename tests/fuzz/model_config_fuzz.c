/* tests/fuzz/model_config_fuzz.c: config.json, a zero byte, generation_config.json. What passes keeps the
 * header's promises. */
#include <stdlib.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const fs_model_config *c)
{
    FS_ASSERT(c->vocab_size > 0 && c->vocab_size <= FS_MAX_VOCAB);
    FS_ASSERT(c->hidden_size > 0 && c->hidden_size <= FS_MAX_HIDDEN);
    FS_ASSERT(c->num_layers > 0 && c->num_layers <= FS_MAX_LAYERS);
    FS_ASSERT(c->num_kv_heads > 0 && c->num_heads % c->num_kv_heads == 0 && c->num_heads > 0);
    FS_ASSERT(c->head_dim > 0 && c->head_dim % 2 == 0);
    FS_ASSERT(c->top_k > 0 && c->top_k <= c->num_experts && c->top_k <= FS_MAX_TOP_K);
    FS_ASSERT(c->num_experts <= FS_MAX_EXPERTS && c->num_moe_layers <= c->num_layers);
    FS_ASSERT(c->rope_theta > 0 && c->rope_theta < 1e16f && c->rms_norm_eps > 0);
    FS_ASSERT(c->num_eos <= FS_MAX_EOS && c->bos_token_id < (int32_t)c->vocab_size);
    FS_ASSERT(c->default_temperature >= 0 && c->default_top_p > 0 && c->default_top_p <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fs_model_config config;
    fs_detail detail = {0};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const char *json = (const char *)data, *generation = zero ? (const char *)zero + 1 : NULL;
    size_t json_size = zero ? (size_t)(zero - data) : size, generation_size = zero ? size - json_size - 1 : 0;
    if (fs_model_config_parse(json, json_size, "config.json", generation, generation_size, &config,
                              &detail) == FS_OK)
        check(&config);
    else
        FS_ASSERT(detail.text[0] != '\0');
    return 0;
}
