/* What finding and opening experts promises: both storages, the layout that one read relies on, no flipped byte accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "sub1/files.h"
#include "sub1_helper.h"

enum { HIDDEN = 32, INTER = 16, EXPERTS = 2, LAYER = 3 };

typedef struct {
    char dir[64], path[96];
    fs_model_config config;
    float w[EXPERTS][3][HIDDEN * INTER];
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    snprintf(f->dir, sizeof(f->dir), "/tmp/sub1_files_XXXXXX");
    if (!mkdtemp(f->dir)) return -1;
    snprintf(f->path, sizeof(f->path), "%s/model.safetensors", f->dir);
    f->config = (fs_model_config){.hidden_size = HIDDEN,
                                  .num_layers = LAYER + 1,
                                  .num_experts = EXPERTS,
                                  .top_k = 1,
                                  .moe_intermediate_size = INTER,
                                  .num_moe_layers = 1,
                                  .moe_layer = {LAYER},
                                  .expert_storage = FS_EXPERTS_SUB1};
    fs_random random = {11};
    for (int e = 0; e < EXPERTS; e++) {
        for (int i = 0; i < 3; i++) {
            uint32_t rows, cols;
            fs_expert_part_shape(&f->config, (fs_expert_part)i, &rows, &cols);
            random_blocked(&random, rows, cols, f->w[e][i]);
        }
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    unlink(f->path);
    rmdir(f->dir);
    free(f);
    return 0;
}

/* A tensor to write: where in the file's order, and its bytes. */
typedef struct {
    char name[128];
    fs_dtype dtype;
    uint32_t num_dims;
    uint64_t shape[2];
    uint8_t *data;
    size_t size;
} tensor;

static void write_file(const fixture *f, const tensor *tensors, int count, size_t align)
{
    fs_safetensors_writer *writer;
    fs_detail detail = {0};
    assert_int_equal(fs_safetensors_writer_create(f->path, align, &writer, &detail), FS_OK);
    for (int i = 0; i < count; i++)
        assert_int_equal(fs_safetensors_writer_declare(writer, tensors[i].name, tensors[i].dtype,
                                                       tensors[i].num_dims, tensors[i].shape),
                         FS_OK);
    for (int i = 0; i < count; i++)
        assert_int_equal(fs_safetensors_writer_write(writer, tensors[i].data, tensors[i].size, &detail),
                         FS_OK);
    assert_int_equal(fs_safetensors_writer_finish(writer, &detail), FS_OK);
    fs_safetensors_writer_destroy(writer);
}

static tensor sub1_tensor(const fixture *f, uint32_t expert, int part, size_t align)
{
    tensor t = {.dtype = FS_DTYPE_U8, .num_dims = 1};
    uint32_t rows, cols;
    fs_expert_part_shape(&f->config, (fs_expert_part)part, &rows, &cols);
    fs_expert_tensor_name(&f->config, FS_EXPERTS_SUB1, LAYER, expert, (fs_expert_part)part, t.name);
    size_t bytes = fs_sub1_blob_bytes(FS_SUB1_BLOCKED, 2, 16, rows, cols);
    t.data = encode(f->w[expert][part], rows, cols, (align - bytes % align) % align, &t.size);
    t.shape[0] = t.size;
    return t;
}

/* Gate and up padded to 64 bytes, down so that the expert ends at a multiple of 512: as foresight-compress writes. */
static void sub1_tensors(const fixture *f, tensor *tensors)
{
    for (uint32_t e = 0; e < EXPERTS; e++) {
        size_t used = 0;
        for (int i = 0; i < 3; i++) {
            tensors[3 * e + (uint32_t)i] = sub1_tensor(f, e, i, 64);
            used += tensors[3 * e + (uint32_t)i].size;
        }
        tensor *down = &tensors[3 * e + 2];
        size_t more = (512 - used % 512) % 512;
        uint8_t *padded = calloc(1, down->size + more);
        memcpy(padded, down->data, down->size);
        free(down->data);
        down->data = padded;
        down->shape[0] = down->size += more;
    }
}

static void free_tensors(tensor *tensors, int count)
{
    for (int i = 0; i < count; i++) free(tensors[i].data);
}

static void a_compressed_expert_is_one_aligned_range(void **state)
{
    fixture *f = *state;
    tensor t[6];
    sub1_tensors(f, t);
    write_file(f, t, 6, 4096);
    fs_tensors *set;
    fs_detail detail = {0};
    assert_int_equal(fs_tensors_open(f->dir, &set, &detail), FS_OK);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        fs_expert_range range;
        fs_expert expert, copied;
        void *widened = &range;
        assert_int_equal(fs_expert_find(&f->config, set, LAYER, e, &range, &detail), FS_OK);
        assert_int_equal(range.offset % FS_EXPERT_FILE_ALIGN, 0);
        assert_int_equal(range.bytes % FS_EXPERT_FILE_ALIGN, 0);
        assert_int_equal(fs_expert_open(&f->config, &range, &expert, &widened, &detail), FS_OK);
        assert_null(widened);
        uint8_t *slot = fs_alloc_aligned(range.bytes); /* one read, as a node's cache does it */
        memcpy(slot, range.part[0]->data, range.bytes);
        assert_int_equal(fs_expert_open_bytes(&f->config, &range, slot, &copied, &detail), FS_OK);
        for (int i = 0; i < 3; i++) {
            float back[HIDDEN * INTER];
            fs_sub1_decode(&expert.sub1[i], back);
            assert_memory_equal(back, f->w[e][i], sizeof(back));
            fs_sub1_decode(&copied.sub1[i], back);
            assert_memory_equal(back, f->w[e][i], sizeof(back));
        }
        free(slot);
    }
    fs_tensors_close(set);
    free_tensors(t, 6);
}

static fs_status open_all(const fixture *f, fs_detail *detail)
{
    fs_tensors *set;
    fs_status st = fs_tensors_open(f->dir, &set, detail);
    if (st != FS_OK) return st;
    for (uint32_t e = 0; st == FS_OK && e < EXPERTS; e++) {
        fs_expert_range range;
        fs_expert expert;
        void *widened = NULL;
        st = fs_expert_find(&f->config, set, LAYER, e, &range, detail);
        if (st == FS_OK) st = fs_expert_open(&f->config, &range, &expert, &widened, detail);
        if (st == FS_OK) free(widened);
    }
    fs_tensors_close(set);
    return st;
}

static void put_byte(FILE *file, long at, uint8_t v)
{
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fputc(v, file), v);
    assert_int_equal(fflush(file), 0);
}

static void every_flipped_byte_of_the_file_is_refused(void **state)
{
    fixture *f = *state;
    tensor t[6];
    sub1_tensors(f, t);
    write_file(f, t, 6, 512);
    fs_buffer bytes = {0};
    fs_detail detail = {0};
    assert_int_equal(fs_file_read(f->path, 1 << 20, &bytes, &detail), FS_OK);
    FILE *file = fopen(f->path, "r+b");
    assert_non_null(file);
    assert_int_equal(open_all(f, &detail), FS_OK);
    for (size_t i = 0; i < bytes.size; i++) {
        put_byte(file, (long)i, bytes.data[i] ^ (uint8_t)(1 << i % 8));
        detail.text[0] = '\0';
        if (open_all(f, &detail) == FS_OK)
            fail_msg("byte %zu of %zu was flipped and accepted", i, bytes.size);
        assert_true(detail.text[0]);
        put_byte(file, (long)i, bytes.data[i]);
    }
    assert_int_equal(open_all(f, &detail), FS_OK);
    fclose(file);
    fs_buffer_free(&bytes);
    free_tensors(t, 6);
}

static void swap(tensor *a, tensor *b)
{
    tensor c = *a;
    *a = *b;
    *b = c;
}

static void expect(const fixture *f, fs_status status, const char *says)
{
    fs_detail detail = {0};
    assert_int_equal(open_all(f, &detail), status);
    if (!strstr(detail.text, says)) fail_msg("'%s' does not say '%s'", detail.text, says);
}

static void a_layout_that_one_read_cannot_bring_is_refused(void **state)
{
    fixture *f = *state;
    tensor t[6];
    sub1_tensors(f, t);
    swap(&t[1], &t[2]);
    write_file(f, t, 6, 512);
    expect(f, FS_CORRUPT, "up_proj.sub1 is not right behind the part before it");
    swap(&t[1], &t[2]);
    tensor small = {
        .name = "small", .dtype = FS_DTYPE_U8, .num_dims = 1, .shape = {64}, .data = t[0].data, .size = 64};
    tensor shifted[7] = {small, t[0], t[1], t[2], t[3], t[4], t[5]};
    write_file(f, shifted, 7, 512);
    expect(f, FS_CORRUPT, "is not a multiple of 512");
    free_tensors(t, 6);
}

static void parts_of_another_shape_or_kind_are_refused(void **state)
{
    fixture *f = *state;
    tensor t[6];
    sub1_tensors(f, t);
    f->config.hidden_size = INTER;
    f->config.moe_intermediate_size = HIDDEN;
    write_file(f, t, 6, 512);
    expect(f, FS_CORRUPT, "gate_proj.sub1: 16 x 32, the model's is 32 x 16");
    f->config.hidden_size = HIDDEN;
    f->config.moe_intermediate_size = INTER;
    f->config.num_experts = EXPERTS;
    write_file(f, t, 5, 512);
    expect(f, FS_NOT_FOUND, "experts.1.down_proj.sub1");
    t[0].dtype = FS_DTYPE_I8;
    write_file(f, t, 6, 512);
    expect(f, FS_INVALID, "gate_proj.sub1");
    free_tensors(t, 6);
}

static uint16_t to_f16(float v) /* the test's values have few bits: exact */
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    if ((bits & 0x7fffffff) == 0) return 0;
    return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ff) + (((bits >> 23 & 255) - 112) << 10)));
}

static void dense_tensors(const fixture *f, fs_dtype dtype, tensor *tensors)
{
    for (uint32_t i = 0; i < 3 * EXPERTS; i++) {
        tensor *t = &tensors[i];
        uint32_t rows, cols, part = i % 3;
        fs_expert_part_shape(&f->config, (fs_expert_part)part, &rows, &cols);
        *t = (tensor){.dtype = dtype, .num_dims = 2, .shape = {rows, cols}};
        t->size = fs_dtype_size(dtype) * rows * cols;
        t->data = malloc(t->size);
        fs_expert_tensor_name(&f->config, FS_EXPERTS_DENSE, LAYER, i / 3, (fs_expert_part)part, t->name);
        for (uint32_t k = 0; k < rows * cols; k++) {
            float v = f->w[i / 3][part][k];
            uint16_t half = dtype == FS_DTYPE_BF16 ? fs_f32_to_bf16(v) : to_f16(v);
            if (dtype == FS_DTYPE_F32)
                memcpy(t->data + 4 * k, &v, 4);
            else
                memcpy(t->data + 2 * k, &half, 2);
        }
    }
}

static void check_weights(const fixture *f, uint32_t e, const fs_expert *expert)
{
    for (int i = 0; i < 3; i++) {
        const fs_matrix *m = &expert->dense[i];
        assert_int_equal((size_t)m->outs * m->cols, HIDDEN * INTER);
        for (uint32_t k = 0; k < HIDDEN * INTER; k++) {
            float v = m->is_bf16 ? fs_bf16_to_f32(((const fs_bf16 *)m->data)[k])
                                 : ((const float *)m->data)[k];
            assert_true(v == f->w[e][i][k]);
        }
    }
}

/* Each part in memory of its own, as a cache reads them. */
static void check_moved(const fixture *f, uint32_t e, const fs_expert_range *range)
{
    uint8_t *part[3];
    fs_expert expert;
    void *widened = NULL;
    bool half = range->part[0]->dtype == FS_DTYPE_F16;
    for (int i = 0; i < 3; i++) {
        part[i] = fs_alloc_aligned(range->part[i]->size);
        memcpy(part[i], range->part[i]->data, range->part[i]->size);
    }
    assert_int_equal(
        fs_expert_open_parts(&f->config, range, (const uint8_t *const *)part, &expert, &widened, NULL),
        FS_OK);
    assert_int_equal(widened != NULL, half);
    assert_int_equal(fs_expert_widened_bytes(&f->config, range) > 0, half);
    if (!half) assert_ptr_equal(expert.dense[1].data, part[1]);
    check_weights(f, e, &expert);
    free(widened);
    for (int i = 0; i < 3; i++) free(part[i]);
}

static void check_dense(const fixture *f, bool expect_widened)
{
    fs_tensors *set;
    fs_detail detail = {0};
    assert_int_equal(fs_tensors_open(f->dir, &set, &detail), FS_OK);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        fs_expert_range range;
        fs_expert expert;
        void *widened = NULL;
        assert_int_equal(fs_expert_find(&f->config, set, LAYER, e, &range, &detail), FS_OK);
        assert_int_equal(fs_expert_open(&f->config, &range, &expert, &widened, &detail), FS_OK);
        assert_int_equal(widened != NULL, expect_widened);
        check_weights(f, e, &expert);
        check_moved(f, e, &range);
        free(widened);
    }
    fs_tensors_close(set);
}

static void dense_experts_are_used_in_place_or_widened(void **state)
{
    fixture *f = *state;
    f->config.expert_storage = FS_EXPERTS_DENSE;
    const fs_dtype dtypes[] = {FS_DTYPE_BF16, FS_DTYPE_F32, FS_DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        tensor t[6];
        dense_tensors(f, dtypes[i], t);
        write_file(f, t, 6, 64);
        check_dense(f, dtypes[i] == FS_DTYPE_F16);
        uint8_t odd[1] = {7}; /* a foreign writer's odd tensor in front: nothing behind it is aligned */
        tensor small = {
            .name = "a", .dtype = FS_DTYPE_U8, .num_dims = 1, .shape = {1}, .data = odd, .size = 1};
        tensor shifted[7] = {small, t[0], t[1], t[2], t[3], t[4], t[5]};
        write_file(f, shifted, 7, 64);
        check_dense(f, true);
        free_tensors(t, 6);
    }
}

/* The bytes in the repository are what a reader of this version accepts: a change of format without a version shows here. */
static void every_expert_of_the_demo_model_opens(void **state)
{
    const char *dir = FS_SOURCE_DIR "/models/demo";
    fs_model_config config;
    fs_tensors *set;
    fs_detail detail = {0};
    assert_int_equal(fs_model_config_load(dir, &config, &detail), FS_OK);
    assert_int_equal(config.expert_storage, FS_EXPERTS_SUB1);
    assert_int_equal(fs_tensors_open(dir, &set, &detail), FS_OK);
    for (uint32_t l = 0; l < config.num_moe_layers; l++) {
        for (uint32_t e = 0; e < config.num_experts; e++) {
            fs_expert_range range;
            fs_expert expert;
            void *widened = NULL;
            assert_int_equal(fs_expert_find(&config, set, config.moe_layer[l], e, &range, &detail), FS_OK);
            assert_int_equal(fs_expert_open(&config, &range, &expert, &widened, &detail), FS_OK);
        }
    }
    fs_tensors_close(set);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_compressed_expert_is_one_aligned_range),
        TEST(every_flipped_byte_of_the_file_is_refused),
        TEST(a_layout_that_one_read_cannot_bring_is_refused),
        TEST(parts_of_another_shape_or_kind_are_refused),
        TEST(dense_experts_are_used_in_place_or_widened),
        cmocka_unit_test(every_expert_of_the_demo_model_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
