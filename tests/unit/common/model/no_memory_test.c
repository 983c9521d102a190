/* tests/unit/common/model/no_memory_test.c: each parser with its first, second, third ... allocation
 * failing. It must end in an error, leave nothing allocated, and succeed once there is memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__) || defined(__clang__)
int main(void)
{
    puts("the sanitizers own malloc: skipped");
    return 0;
}
#else

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t align, size_t size);
extern void __libc_free(void *p);

static bool armed;
static long left, live; /* until the one that fails; allocated since arming */

static bool fails(void)
{
    if (!armed || left-- != 0) return false;
    errno = ENOMEM;
    return true;
}

static void *counted(void *p)
{
    if (armed && p) live++;
    return p;
}

void *malloc(size_t size)
{
    return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (fails()) return NULL;
    void *q = __libc_realloc(p, size);
    return p ? q : counted(q);
}

void *aligned_alloc(size_t align, size_t size)
{
    return fails() ? NULL : counted(__libc_memalign(align, size));
}

int posix_memalign(void **out, size_t align, size_t size)
{
    void *p = aligned_alloc(align, size);
    if (p) *out = p;
    return p ? 0 : ENOMEM;
}

void free(void *p)
{
    if (armed && p) live--;
    __libc_free(p);
}

typedef fs_status (*attempt)(void);

static void try_all(attempt run)
{
    fs_status st = FS_NO_MEMORY;
    long n = 0;
    for (; n < 100000 && st != FS_OK; n++) {
        left = n;
        live = 0;
        armed = true;
        st = run();
        armed = false;
        if (live != 0)
            fail_msg("allocation %ld fails: %ld blocks are left (%s)", n, live, fs_status_name(st));
    }
    assert_int_equal(st, FS_OK);
    assert_true(n > 3);
}

static fs_status run_config(void)
{
    static const char json[] =
        "{\"vocab_size\":64,\"hidden_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"rope_"
        "theta\":1e4,"
        "\"rms_norm_eps\":1e-5,\"max_position_embeddings\":64,\"num_experts\":4,\"num_experts_per_tok\":2,"
        "\"moe_intermediate_size\":16,\"norm_topk_prob\":true,\"router_hidden_size\":16,\"router_num_"
        "layers\":1,"
        "\"router_num_heads\":2,\"router_intermediate_size\":16,\"tie_word_embeddings\":true,\"hidden_act\":"
        "\"silu\","
        "\"model_type\":\"readme_moe\"}";
    fs_model_config config;
    return fs_model_config_parse(json, sizeof(json) - 1, "x", "{\"top_k\":3}", 11, &config, NULL);
}

static fs_status run_safetensors(void)
{
    static const char header[] =
        "{\"__metadata__\":{\"a\":\"b\"},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    uint8_t bytes[8 + sizeof(header) + 8] = {sizeof(header) - 1};
    fs_tensors *set = NULL;
    memcpy(bytes + 8, header, sizeof(header) - 1);
    size_t size = 8 + sizeof(header) - 1 + 8;
    fs_status st = fs_safetensors_parse(bytes, size, size, "x", &set, NULL);
    fs_tensors_close(set);
    return st;
}

static char writer_path[64];

static fs_status run_writer(void)
{
    fs_safetensors_writer *w = NULL;
    fs_status st = fs_safetensors_writer_create(writer_path, 64, &w, NULL);
    if (st == FS_OK) st = fs_safetensors_writer_metadata(w, "a", "b");
    if (st == FS_OK) st = fs_safetensors_writer_declare(w, "a", FS_DTYPE_U8, 1, (uint64_t[]){3});
    if (st == FS_OK) st = fs_safetensors_writer_write(w, "abc", 3, NULL);
    if (st == FS_OK) st = fs_safetensors_writer_finish(w, NULL);
    fs_safetensors_writer_destroy(w);
    return st;
}

static const char tokenizer[] =
    "{\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true},{\"id\":6,\"content\":\"w\","
    "\"normalized\":false}],"
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,"
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120ab\":4},\"merges\":[[\"a\",\"b\"],["
    "\"\\u0120\",\"ab\"]]}}";

static fs_status run_tokenizer(void)
{
    fs_tokenizer *t = NULL;
    fs_status st = fs_tokenizer_parse(tokenizer, sizeof(tokenizer) - 1, "x", &t, NULL);
    fs_tokenizer_destroy(t);
    return st;
}

static fs_tokenizer *loaded;

static fs_status run_encode(void)
{
    uint32_t *ids = NULL;
    size_t count = 0;
    fs_status st = fs_tokenizer_encode(loaded, "ab<s>abw\xc3\xa9 abba", 15, true, &ids, &count, NULL);
    free(ids);
    return st;
}

static void a_configuration_without_memory_is_an_error(void **state)
{
    try_all(run_config);
}

static void tensors_without_memory_are_an_error(void **state)
{
    try_all(run_safetensors);
}

static void a_writer_without_memory_leaves_no_file(void **state)
{
    char dir[] = "/tmp/fs-writer-XXXXXX";
    assert_non_null(mkdtemp(dir));
    snprintf(writer_path, sizeof(writer_path), "%s/m", dir);
    try_all(run_writer);
    assert_int_equal(unlink(writer_path), 0);
    assert_int_equal(rmdir(dir), 0); /* it is empty */
}

static void a_tokenizer_without_memory_is_an_error(void **state)
{
    try_all(run_tokenizer);
}

static void encoding_without_memory_is_an_error(void **state)
{
    assert_int_equal(fs_tokenizer_parse(tokenizer, sizeof(tokenizer) - 1, "x", &loaded, NULL), FS_OK);
    try_all(run_encode);
    fs_tokenizer_destroy(loaded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_configuration_without_memory_is_an_error),
        cmocka_unit_test(tensors_without_memory_are_an_error),
        cmocka_unit_test(a_writer_without_memory_leaves_no_file),
        cmocka_unit_test(a_tokenizer_without_memory_is_an_error),
        cmocka_unit_test(encoding_without_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
