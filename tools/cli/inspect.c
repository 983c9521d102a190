/* tools/cli/inspect.c: `foresight inspect DIR`: a model directory's shapes, sizes and bits a weight, by part. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"

typedef struct {
    bool json, verify;
} inspect_options;
#define AT(field) offsetof(inspect_options, field)

static const fs_conf_option table[] = {
    {.name = "json",
     .type = FS_CONF_BOOL,
     .offset = AT(json),
     .default_text = "false",
     .help = "Print one JSON object."},
    {.name = "verify",
     .type = FS_CONF_BOOL,
     .offset = AT(verify),
     .default_text = "false",
     .help = "Read every expert and compare its checksums."},
    {0},
};
static const fs_conf_spec spec = {
    .program = "foresight inspect",
    .summary = "Shows what a model directory holds: shapes, sizes, bits a weight by part.",
    .positional = "DIR",
    .options = table};

static const char *storage_name(const fs_summary *s)
{
    return s->config.expert_storage == FS_EXPERTS_SUB1 ? "sub1" : "dense";
}

static json_t *part_json(const fs_summary_part *p)
{
    return json_pack("{s:s, s:i, s:I, s:I, s:f}", "part", p->part, "tensors", (int)p->tensors, "weights",
                     (json_int_t)p->weights, "bytes", (json_int_t)p->bytes, "bits_per_weight",
                     fs_bits_per_weight(p));
}

static json_t *config_json(const fs_model_config *c)
{
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "family",
                     fs_model_family_name(c->family), "vocab_size", (int)c->vocab_size, "hidden_size",
                     (int)c->hidden_size, "num_layers", (int)c->num_layers, "num_heads", (int)c->num_heads,
                     "num_kv_heads", (int)c->num_kv_heads, "head_dim", (int)c->head_dim, "max_positions",
                     (int)c->max_positions, "num_moe_layers", (int)c->num_moe_layers, "num_experts",
                     (int)c->num_experts, "experts_per_token", (int)c->top_k, "moe_intermediate_size",
                     (int)c->moe_intermediate_size, "pregate_hidden_size", (int)c->pregate_hidden_size,
                     "tie_word_embeddings", (int)c->tie_word_embeddings);
}

static json_t *summary_json(const char *dir, const fs_summary *s, bool verified)
{
    char fingerprint[17];
    json_t *parts = json_array();
    for (uint32_t i = 0; i < s->num_parts; i++) json_array_append_new(parts, part_json(&s->part[i]));
    snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64, s->fingerprint);
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:i, s:b}", "dir", dir, "fingerprint",
                     fingerprint, "expert_storage", storage_name(s), "config", config_json(&s->config),
                     "parts", parts, "weights", (json_int_t)s->weights, "tensor_bytes", (json_int_t)s->bytes,
                     "file_bytes", (json_int_t)s->file_bytes, "files", (int)s->num_files, "verified",
                     (int)verified);
}

static void print_summary(const char *dir, const fs_summary *s, bool verified)
{
    const fs_model_config *c = &s->config;
    printf("%s: %s, fingerprint %016" PRIx64 "\n", dir, fs_model_family_name(c->family), s->fingerprint);
    printf("  layers %u, hidden %u, heads %u (%u key/value) of %u, vocabulary %u, context %u\n",
           c->num_layers, c->hidden_size, c->num_heads, c->num_kv_heads, c->head_dim, c->vocab_size,
           c->max_positions);
    printf("  experts %u a layer in %u layers, %u a token, %u -> %u -> %u, stored as %s%s\n", c->num_experts,
           c->num_moe_layers, c->top_k, c->hidden_size, c->moe_intermediate_size, c->hidden_size,
           storage_name(s), verified ? ", all checksums right" : "");
    if (c->pregate_hidden_size)
        printf("  pre-gate: %u layer%s, hidden %u\n", c->pregate_num_layers,
               c->pregate_num_layers == 1 ? "" : "s", c->pregate_hidden_size);
    printf("\n  %-14s %8s %14s %14s %14s %12s\n", "PART", "TENSORS", "WEIGHTS", "BYTES", "AS BF16",
           "BITS/WEIGHT");
    for (uint32_t i = 0; i < s->num_parts; i++) {
        const fs_summary_part *p = &s->part[i];
        printf("  %-14s %8u %14" PRIu64 " %14" PRIu64 " %14" PRIu64 " %12.3f\n", p->part, p->tensors,
               p->weights, p->bytes, 2 * p->weights, fs_bits_per_weight(p));
    }
    fs_summary_part all = {.weights = s->weights, .bytes = s->bytes};
    printf("  %-14s %8s %14" PRIu64 " %14" PRIu64 " %14" PRIu64 " %12.3f\n", "all", "", s->weights, s->bytes,
           2 * s->weights, fs_bits_per_weight(&all));
    printf("  %u file%s, %" PRIu64 " bytes\n", s->num_files, s->num_files == 1 ? "" : "s", s->file_bytes);
}

int fs_cli_inspect(int argc, char **argv)
{
    inspect_options o = {0};
    const char *dir = NULL;
    fs_conf *conf = NULL;
    fs_detail detail = {0};
    static fs_summary summary;
    int code = fs_cli_parse(&spec, argc, argv, &o, &dir, &conf);
    if (code != FS_CLI_GO_ON) return code;
    fs_status st = fs_summary_load(dir, o.verify, &summary, &detail);
    if (st != FS_OK)
        fs_cli_complain("inspect", "%s: %s", fs_status_name(st), detail.text);
    else if (o.json)
        fs_cli_print_json(summary_json(dir, &summary, o.verify));
    else
        print_summary(dir, &summary, o.verify);
    fs_conf_destroy(conf);
    return st == FS_OK ? FS_EXIT_OK : FS_EXIT_FAILED;
}
