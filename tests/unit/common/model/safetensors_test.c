/* tests/unit/common/model/safetensors_test.c: headers that lie in every way, directories, and the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "model/config.h"
#include "model/safetensors.h"

#define TWO                                                                                                  \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]" \
    "},"                                                                                                     \
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}"

/* A file of this header and data_size zero bytes. */
static fs_buffer file_of(const char *header, size_t data_size)
{
    fs_buffer f = {0};
    fs_buffer_append_u64(&f, strlen(header));
    fs_buffer_append(&f, header, strlen(header));
    for (size_t i = 0; i < data_size; i++) fs_buffer_append_u8(&f, 0);
    return f;
}

static fs_status parse(const char *header, size_t data_size, fs_tensors **out, fs_detail *detail)
{
    fs_buffer f = file_of(header, data_size);
    fs_status st = fs_safetensors_parse(f.data, f.size, f.size, "x.safetensors", out, detail);
    fs_buffer_free(&f);
    return st;
}

static void refused(const char *header, size_t data_size, fs_status status, const char *word)
{
    fs_tensors *set = NULL;
    fs_detail detail = {0};
    fs_status st = parse(header, data_size, &set, &detail);
    if (st != status) fail_msg("%s: %s (%s)", header, fs_status_name(st), detail.text);
    assert_null(set);
    assert_non_null(strstr(detail.text, "x.safetensors"));
    if (!strstr(detail.text, word)) fail_msg("'%s' does not say '%s'", detail.text, word);
}

/* One tensor 'a' with these members, in data_size bytes. */
static void refused_tensor(const char *members, size_t data_size, fs_status status, const char *word)
{
    char header[512];
    snprintf(header, sizeof(header), "{\"a\":{%s}}", members);
    refused(header, data_size, status, word);
    refused(header, data_size, status, "'a'");
}

static void tensors_come_in_order_of_place(void **state)
{
    fs_tensors *set = NULL;
    assert_int_equal(parse(TWO, 28, &set, NULL), FS_OK);
    assert_int_equal(fs_tensors_count(set), 2);
    const fs_tensor *a = fs_tensors_at(set, 0), *b = fs_tensors_at(set, 1);
    assert_string_equal(a->name, "a");
    assert_ptr_equal(fs_tensors_find(set, "b"), b);
    assert_null(fs_tensors_find(set, "c"));
    assert_int_equal(b->dtype, FS_DTYPE_F32);
    assert_int_equal(b->num_dims, 2);
    assert_true(b->shape[0] == 2 && b->shape[1] == 3 && b->shape[2] == 1 && b->shape[3] == 1);
    assert_int_equal(b->size, 24);
    assert_int_equal(b->file_offset, 8 + strlen(TWO) + 4);
    assert_string_equal(fs_tensors_metadata(set, 0, "format"), "pt");
    assert_null(fs_tensors_metadata(set, 0, "nothing"));
    fs_tensors_close(set);
}

static void empty_and_scalar_tensors_are_fine(void **state)
{
    fs_tensors *set = NULL;
    assert_int_equal(parse("{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                           "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                           "\"e\":{\"dtype\":\"I8\",\"shape\":[3,0],\"data_offsets\":[4,4]}}",
                           4, &set, NULL),
                     FS_OK);
    assert_int_equal(fs_tensors_count(set), 3);
    fs_tensors_close(set);
    assert_int_equal(parse("{}  ", 0, &set, NULL), FS_OK);
    fs_tensors_close(set);
}

static void lies_of_a_header_are_corrupt(void **state)
{
    refused_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4, FS_CORRUPT, "8");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", 3, FS_CORRUPT, "[0, 4]");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0.0,4]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1]", 4, FS_CORRUPT, "data_offsets");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]", 4, FS_CORRUPT, "shape");
    refused_tensor("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]", 4, FS_CORRUPT, "shape");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]", 4, FS_CORRUPT, "shape");
    refused_tensor("\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4, FS_CORRUPT, "shape");
    refused_tensor("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]", 4, FS_CORRUPT, "dtype");
    refused("{\"a\":3}", 0, FS_CORRUPT, "'a'");
    refused("{\"__metadata__\":[]}", 0, FS_CORRUPT, "__metadata__");
    refused("{\"__metadata__\":{\"a\":1}}", 0, FS_CORRUPT, "__metadata__");
}

static void a_shape_that_overflows_is_corrupt(void **state)
{
    refused_tensor("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0,
                   FS_CORRUPT, "overflow");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]", 0, FS_CORRUPT,
                   "overflow");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0,
            FS_CORRUPT, "JSON");
}

static void other_dtypes_and_many_dimensions_are_unsupported(void **state)
{
    refused_tensor("\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]", 8, FS_UNSUPPORTED, "'I64'");
    refused_tensor("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]", 4, FS_UNSUPPORTED, "'f32'");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]", 4, FS_UNSUPPORTED, "5");
}

static void overlaps_holes_and_leftovers_are_corrupt(void **state)
{
#define A "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"
    refused("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}", 7, FS_CORRUPT,
            "'b': its bytes overlap");
    refused("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, FS_CORRUPT,
            "overlap");
    refused("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 4, FS_CORRUPT,
            "overlap");
    refused("{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}", 9, FS_CORRUPT,
            "'b': there is a hole");
    refused("{" A "}", 5, FS_CORRUPT, "1 bytes behind");
    refused("{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, FS_CORRUPT, "hole");
    refused("{" A "," A "}", 4, FS_CORRUPT, "uplicate");
}

static void a_header_that_is_not_json_is_corrupt(void **state)
{
    static const char *const bad[] = {"",          "[]", " {}", "{", "{}x", "{\"a\":NaN}", "{\"a\":\"\xff\"}",
                                      "{\"a\":{}}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) refused(bad[i], 0, FS_CORRUPT, "");
    enum { depth = 200000 };
    char *deep = calloc(1, depth + 8);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', depth);
    refused(deep, 0, FS_CORRUPT, "JSON");
    free(deep);
}

static void a_header_length_that_lies_is_corrupt(void **state)
{
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)INT64_MAX, (100u << 20) + 1, 3};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        fs_buffer f = {0};
        fs_tensors *set = NULL;
        fs_buffer_append_u64(&f, lengths[i]);
        fs_buffer_printf(&f, "{}");
        assert_int_equal(fs_safetensors_parse(f.data, f.size, f.size, "x", &set, NULL), FS_CORRUPT);
        assert_int_equal(fs_safetensors_parse(f.data, f.size, UINT64_MAX, "x", &set, NULL), FS_CORRUPT);
        fs_buffer_free(&f);
    }
}

static void every_truncation_is_corrupt(void **state)
{
    fs_buffer f = file_of(TWO, 28);
    for (size_t n = 0; n < f.size; n++) {
        fs_tensors *set = NULL;
        uint8_t *part = malloc(n + 1); /* of exactly this size, for the sanitizer */
        memcpy(part, f.data, n);
        assert_int_equal(fs_safetensors_parse(part, n, n, "x", &set, NULL), FS_CORRUPT);
        free(part);
    }
    fs_buffer_free(&f);
}

static void flipped_bits_never_pass_with_wrong_places(void **state)
{
    fs_buffer f = file_of(TWO, 28);
    for (size_t bit = 0; bit < 8 * (8 + strlen(TWO)); bit++) {
        fs_tensors *set = NULL;
        f.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (fs_safetensors_parse(f.data, f.size, f.size, "x", &set, NULL) == FS_OK) {
            uint64_t at = f.size - 28;
            for (uint32_t i = 0; i < fs_tensors_count(set); i++) {
                assert_int_equal(fs_tensors_at(set, i)->file_offset, at);
                at += fs_tensors_at(set, i)->size;
            }
            assert_int_equal(at, f.size);
            fs_tensors_close(set);
        }
        f.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    fs_buffer_free(&f);
}

static void get_names_what_it_expected_and_found(void **state)
{
    fs_tensors *set = NULL;
    const fs_tensor *t = NULL;
    fs_detail detail = {0};
    assert_int_equal(parse("{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                           "\"u\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[12,17]}}",
                           17, &set, NULL),
                     FS_OK);
    assert_int_equal(fs_tensors_get(set, "a", 2, (uint64_t[]){2, 3}, &t, &detail), FS_OK);
    assert_string_equal(t->name, "a");
    assert_int_equal(fs_tensors_get(set, "u", 1, (uint64_t[]){0}, &t, &detail), FS_OK);
    assert_int_equal(t->size, 5);
    assert_int_equal(fs_tensors_get(set, "x", 1, (uint64_t[]){1}, &t, &detail), FS_NOT_FOUND);
    assert_non_null(strstr(detail.text, "'x'"));
    assert_int_equal(fs_tensors_get(set, "a", 2, (uint64_t[]){3, 2}, &t, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "'a' is BF16 [2, 3], expected float [3, 2]"));
    assert_int_equal(fs_tensors_get(set, "a", 1, (uint64_t[]){6}, &t, &detail), FS_INVALID);
    assert_int_equal(fs_tensors_get(set, "a", 1, (uint64_t[]){0}, &t, &detail), FS_INVALID);
    assert_int_equal(fs_tensors_get(set, "u", 1, (uint64_t[]){5}, &t, &detail), FS_INVALID);
    fs_tensors_close(set);
}

static void floats_widen_exactly(void **state)
{
    static const uint8_t f16[] = {0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0x01, 0x80, 0xff, 0x03, 0x00,
                                  0x04, 0xff, 0x7b, 0x00, 0x7c, 0x00, 0xfc, 0x00, 0x7e, 0x00, 0x80};
    static const float expected[] = {1,        -2,    0x1p-24f, -0x1p-24f, 0x1.ff8p-15f,
                                     0x1p-14f, 65504, INFINITY, -INFINITY};
    float out[11];
    fs_tensor t = {.dtype = FS_DTYPE_F16, .data = f16, .size = sizeof(f16)};
    fs_tensor_to_f32(&t, out);
    for (size_t i = 0; i < 9; i++) assert_true(out[i] == expected[i]);
    assert_true(isnan(out[9]));
    assert_true(out[10] == 0 && signbit(out[10]));
    static const uint8_t bf16[] = {0xff, 0x80, 0x3f, 0x49, 0xc0}; /* from an odd address */
    t = (fs_tensor){.dtype = FS_DTYPE_BF16, .data = bf16 + 1, .size = 4};
    fs_tensor_to_f32(&t, out);
    assert_true(out[0] == 1 && out[1] == -3.140625f);
    static const uint8_t f32[] = {0, 0, 0, 0xc0, 0x3f};
    t = (fs_tensor){.dtype = FS_DTYPE_F32, .data = f32 + 1, .size = 4};
    fs_tensor_to_f32(&t, out);
    assert_true(out[0] == 1.5f);
}

/* --- directories --- */

typedef struct {
    char path[64];
} directory;

static directory make_dir(void)
{
    directory d = {"/tmp/fs-tensors-XXXXXX"};
    assert_non_null(mkdtemp(d.path));
    return d;
}

static const char *in(const directory *d, const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", d->path, name);
    return path;
}

static void put(const directory *d, const char *name, const void *data, size_t size)
{
    FILE *f = fopen(in(d, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static uint32_t num_entries(const directory *d)
{
    uint32_t n = 0;
    DIR *dir = opendir(d->path);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void remove_dir(const directory *d)
{
    DIR *dir = opendir(d->path);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') unlink(in(d, e->d_name));
    closedir(dir);
    rmdir(d->path);
}

static void put_tensor(const directory *d, const char *file, const char *tensor, uint8_t value)
{
    char header[128];
    snprintf(header, sizeof(header), "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
             tensor);
    fs_buffer f = file_of(header, 0);
    fs_buffer_append_u8(&f, value);
    put(d, file, f.data, f.size);
    fs_buffer_free(&f);
}

static void open_refused(const directory *d, const char *index, fs_status status, const char *word)
{
    fs_tensors *set = NULL;
    fs_detail detail = {0};
    if (index) put(d, "model.safetensors.index.json", index, strlen(index));
    fs_status st = fs_tensors_open(d->path, &set, &detail);
    if (st != status || !strstr(detail.text, word))
        fail_msg("%s: %s (%s)", index, fs_status_name(st), detail.text);
    assert_null(set);
}

static void shards_are_one_set(void **state)
{
    directory d = make_dir();
    fs_tensors *set = NULL;
    static const char index[] =
        "{\"metadata\":{},\"weight_map\":{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}}";
    put_tensor(&d, "1.safetensors", "a", 11);
    put_tensor(&d, "2.safetensors", "b", 22);
    put(&d, "model.safetensors.index.json", index, sizeof(index) - 1);
    assert_int_equal(fs_tensors_open(d.path, &set, NULL), FS_OK);
    assert_int_equal(fs_tensors_num_files(set), 2);
    assert_int_equal(fs_tensors_count(set), 2);
    assert_int_equal(fs_tensors_find(set, "a")->data[0], 11);
    const fs_tensor *b = fs_tensors_at(set, 1);
    assert_int_equal(b->data[0], 22);
    assert_int_equal(b->file, 1);
    assert_string_equal(fs_tensors_file_path(set, 1), in(&d, "2.safetensors"));
    assert_int_equal(fs_tensors_file_size(set, 1), b->file_offset + 1);
    fs_tensors_close(set);
    remove_dir(&d);
}

static void a_released_tensor_is_still_there(void **state)
{
    directory d = make_dir();
    fs_tensors *set = NULL;
    enum { SMALL = 100, LARGE = 100000 };
    fs_buffer f = file_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[100],\"data_offsets\":[0,100]},"
                          "\"b\":{\"dtype\":\"U8\",\"shape\":[100000],\"data_offsets\":[100,100100]},"
                          "\"c\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[100100,100100]}}",
                          0);
    for (uint32_t i = 0; i < SMALL + LARGE; i++) fs_buffer_append_u8(&f, (uint8_t)(i % 251));
    put(&d, "model.safetensors", f.data, f.size);
    fs_buffer_free(&f);
    assert_int_equal(fs_tensors_open(d.path, &set, NULL), FS_OK);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t t = 0; t < 3; t++) fs_tensor_release(fs_tensors_at(set, t));
        for (uint32_t i = 0; i < SMALL; i++) assert_int_equal(fs_tensors_at(set, 0)->data[i], i % 251);
        for (uint32_t i = 0; i < LARGE; i++)
            assert_int_equal(fs_tensors_at(set, 1)->data[i], (i + SMALL) % 251);
    }
    fs_tensors_close(set);
    remove_dir(&d);
}

static void an_index_that_lies_is_corrupt(void **state)
{
    directory d = make_dir();
    put_tensor(&d, "1.safetensors", "a", 11);
    put_tensor(&d, "2.safetensors", "b", 22);
    put_tensor(&d, "3.safetensors", "a", 33);
#define MAP(text) "{\"weight_map\":{" text "}}"
    open_refused(&d, MAP("\"a\":\"1.safetensors\",\"b\":\"1.safetensors\""), FS_CORRUPT, "'b' is not in");
    open_refused(&d, MAP("\"b\":\"1.safetensors\",\"a\":\"2.safetensors\""), FS_CORRUPT, "is said to be in");
    open_refused(&d, MAP("\"c\":\"1.safetensors\""), FS_CORRUPT, "'a'");
    open_refused(&d, MAP("\"a\":\"1.safetensors\",\"x\":\"3.safetensors\""), FS_CORRUPT, "another file");
    open_refused(&d, MAP("\"a\":\"1.safetensors\",\"b\":\"4.safetensors\""), FS_NOT_FOUND, "4.safetensors");
    open_refused(&d, MAP("\"a\":\"../1.safetensors\""), FS_CORRUPT, "plain file name");
    open_refused(&d, MAP("\"a\":\"\""), FS_CORRUPT, "plain file name");
    open_refused(&d, MAP("\"a\":7"), FS_CORRUPT, "plain file name");
    open_refused(&d, MAP("\"a\":\"1.safetensors\",\"a\":\"1.safetensors\""), FS_CORRUPT, "uplicate");
    open_refused(&d, "{}", FS_CORRUPT, "weight_map");
    open_refused(&d, "{\"weight_map\":[]}", FS_CORRUPT, "weight_map");
    open_refused(&d, "", FS_CORRUPT, "JSON");
    remove_dir(&d);
}

static void what_is_no_model_is_refused(void **state)
{
    directory d = make_dir();
    open_refused(&d, NULL, FS_NOT_FOUND, "model.safetensors");
    put(&d, "model.safetensors", "", 0);
    open_refused(&d, NULL, FS_CORRUPT, "too few");
    unlink(in(&d, "model.safetensors"));
    assert_int_equal(mkfifo(in(&d, "model.safetensors"), 0600), 0);
    open_refused(&d, NULL, FS_INVALID, "not a regular file");
    remove_dir(&d);
}

static void a_fingerprint_sees_config_names_shapes_and_places(void **state)
{
    directory d = make_dir();
    uint64_t one, two;
    fs_tensors *a = NULL, *b = NULL;
    assert_int_equal(parse(TWO, 28, &a, NULL), FS_OK);
    assert_int_equal(fs_model_fingerprint(d.path, a, &one, NULL), FS_NOT_FOUND);
    put(&d, "config.json", "{}", 2);
    assert_int_equal(fs_model_fingerprint(d.path, a, &one, NULL), FS_OK);
    static const char *const others[] = {"{\"b\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[4,28]},"
                                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
                                         "{\"c\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
                                         "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[24,28]}}",
                                         "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                                         "\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_int_equal(parse(others[i], 28, &b, NULL), FS_OK);
        assert_int_equal(fs_model_fingerprint(d.path, b, &two, NULL), FS_OK);
        assert_true(one != two);
        fs_tensors_close(b);
    }
    assert_int_equal(fs_model_fingerprint(d.path, a, &two, NULL), FS_OK);
    assert_true(one == two);
    put(&d, "config.json", "{ }", 3);
    assert_int_equal(fs_model_fingerprint(d.path, a, &two, NULL), FS_OK);
    assert_true(one != two);
    fs_tensors_close(a);
    remove_dir(&d);
}

static void a_fingerprint_sees_the_checksums_of_compressed_parts(void **state)
{
    directory d = make_dir();
    put(&d, "config.json", "{}", 2);
    uint64_t print[3];
    for (size_t i = 0; i < 3; i++) {
        static const size_t flipped[] = {0, 40, 100}; /* none, in the header, behind it */
        uint8_t part[128] = {0};
        if (i > 0) part[flipped[i]] = 1;
        const uint64_t shape[] = {sizeof(part)};
        fs_safetensors_writer *w = NULL;
        fs_tensors *tensors = NULL;
        unlink(in(&d, "model.safetensors"));
        assert_int_equal(fs_safetensors_writer_create(in(&d, "model.safetensors"), 64, &w, NULL), FS_OK);
        assert_int_equal(fs_safetensors_writer_declare(w, "part.sub1", FS_DTYPE_U8, 1, shape), FS_OK);
        assert_int_equal(fs_safetensors_writer_write(w, part, sizeof(part), NULL), FS_OK);
        assert_int_equal(fs_safetensors_writer_finish(w, NULL), FS_OK);
        fs_safetensors_writer_destroy(w);
        assert_int_equal(fs_tensors_open(d.path, &tensors, NULL), FS_OK);
        assert_int_equal(fs_model_fingerprint(d.path, tensors, &print[i], NULL), FS_OK);
        fs_tensors_close(tensors);
    }
    assert_true(print[0] != print[1]);
    assert_true(print[0] == print[2]);
    remove_dir(&d);
}

/* --- the writer --- */

static void what_is_written_is_read(void **state)
{
    directory d = make_dir();
    fs_safetensors_writer *w = NULL;
    fs_tensors *set = NULL;
    fs_detail detail = {0};
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6};
    static const float floats[] = {1.5f, -2};
    assert_int_equal(fs_safetensors_writer_create(in(&d, "model.safetensors"), 4096, &w, &detail), FS_OK);
    assert_int_equal(fs_safetensors_writer_metadata(w, "k\"ey", "va\nlue \xc3\xa9"), FS_OK);
    assert_int_equal(fs_safetensors_writer_metadata(w, "two", ""), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "z \"quoted\"", FS_DTYPE_U8, 1, (uint64_t[]){6}),
                     FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "empty", FS_DTYPE_BF16, 2, (uint64_t[]){0, 7}), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "a", FS_DTYPE_F32, 2, (uint64_t[]){1, 2}), FS_OK);
    assert_int_equal(fs_safetensors_writer_write(w, bytes, sizeof(bytes), &detail), FS_OK);
    assert_int_equal(fs_safetensors_writer_write(w, NULL, 0, &detail), FS_OK);
    assert_int_equal(fs_safetensors_writer_write(w, floats, sizeof(floats), &detail), FS_OK);
    assert_int_equal(access(in(&d, "model.safetensors"), F_OK), -1); /* not before it is whole */
    assert_int_equal(fs_safetensors_writer_finish(w, &detail), FS_OK);
    fs_safetensors_writer_destroy(w);
    assert_int_equal(num_entries(&d), 1);
    if (fs_tensors_open(d.path, &set, &detail) != FS_OK) fail_msg("%s", detail.text);
    assert_int_equal(fs_tensors_count(set), 3);
    assert_int_equal(fs_tensors_find(set, "z \"quoted\"")->file_offset % 4096, 0);
    assert_memory_equal(fs_tensors_find(set, "z \"quoted\"")->data, bytes, sizeof(bytes));
    float out[2];
    fs_tensor_to_f32(fs_tensors_find(set, "a"), out);
    assert_true(out[0] == 1.5f && out[1] == -2);
    assert_string_equal(fs_tensors_metadata(set, 0, "k\"ey"), "va\nlue \xc3\xa9");
    fs_tensors_close(set);
    remove_dir(&d);
}

static void pieces_are_the_same_as_a_whole(void **state)
{
    directory d = make_dir();
    fs_safetensors_writer *w = NULL;
    fs_tensors *tensors = NULL;
    assert_int_equal(fs_safetensors_writer_create(in(&d, "model.safetensors"), 64, &w, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "a", FS_DTYPE_U8, 1, (uint64_t[]){5}), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "b", FS_DTYPE_U8, 1, (uint64_t[]){2}), FS_OK);
    assert_int_equal(fs_safetensors_writer_append(w, "12", 2, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_append(w, "3456", 4, NULL), FS_INVALID); /* one too many */
    assert_int_equal(fs_safetensors_writer_write(w, "12345", 5, NULL), FS_INVALID); /* begun in pieces */
    assert_int_equal(fs_safetensors_writer_append(w, "345", 3, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_append(w, "6", 1, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_finish(w, NULL), FS_INVALID); /* b is not whole */
    assert_int_equal(fs_safetensors_writer_append(w, "7", 1, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_append(w, "8", 1, NULL), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_finish(w, NULL), FS_OK);
    fs_safetensors_writer_destroy(w);
    assert_int_equal(fs_tensors_open(d.path, &tensors, NULL), FS_OK);
    assert_memory_equal(fs_tensors_find(tensors, "a")->data, "1234567", 7);
    fs_tensors_close(tensors);
    remove_dir(&d);
}

static void a_file_without_tensors_is_valid(void **state)
{
    directory d = make_dir();
    fs_safetensors_writer *w = NULL;
    fs_tensors *set = NULL;
    assert_int_equal(fs_safetensors_writer_create(in(&d, "model.safetensors"), 8, &w, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_finish(w, NULL), FS_OK);
    assert_int_equal(fs_safetensors_writer_finish(w, NULL), FS_INVALID);
    fs_safetensors_writer_destroy(w);
    assert_int_equal(fs_tensors_open(d.path, &set, NULL), FS_OK);
    assert_int_equal(fs_tensors_count(set), 0);
    fs_tensors_close(set);
    remove_dir(&d);
}

static void the_writer_refuses_what_was_not_declared(void **state)
{
    directory d = make_dir();
    fs_safetensors_writer *w = NULL;
    fs_detail detail = {0};
    assert_int_equal(fs_safetensors_writer_create(in(&d, "m"), 12, &w, &detail), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_create(in(&d, "m"), 4, &w, &detail), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_create(in(&d, "none/m"), 8, &w, &detail), FS_IO);
    assert_int_equal(fs_safetensors_writer_create(in(&d, "m"), 8, &w, &detail), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "a", FS_DTYPE_U8, 1, (uint64_t[]){2}), FS_OK);
    assert_int_equal(fs_safetensors_writer_declare(w, "a", FS_DTYPE_U8, 1, (uint64_t[]){2}), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "\xff", FS_DTYPE_U8, 1, (uint64_t[]){2}), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "__metadata__", FS_DTYPE_U8, 1, (uint64_t[]){2}),
                     FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "b", FS_DTYPE_U8, 2, (uint64_t[]){UINT64_MAX, 2}),
                     FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "b", FS_NUM_DTYPES, 1, (uint64_t[]){2}), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "b", FS_DTYPE_U8, 5, (uint64_t[]){1, 1, 1, 1, 1}),
                     FS_INVALID);
    assert_int_equal(fs_safetensors_writer_write(w, "x", 1, &detail), FS_INVALID);
    assert_non_null(strstr(detail.text, "'a'"));
    assert_int_equal(fs_safetensors_writer_finish(w, &detail), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_write(w, "xy", 2, &detail), FS_OK);
    assert_int_equal(fs_safetensors_writer_write(w, "xy", 2, &detail), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_declare(w, "c", FS_DTYPE_U8, 1, (uint64_t[]){2}), FS_INVALID);
    assert_int_equal(fs_safetensors_writer_metadata(w, "k", "v"), FS_INVALID);
    assert_int_equal(num_entries(&d), 1);
    fs_safetensors_writer_destroy(w);
    assert_int_equal(num_entries(&d), 0); /* the temporary file is gone */
    fs_safetensors_writer_destroy(NULL);
    remove_dir(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_come_in_order_of_place),
        cmocka_unit_test(empty_and_scalar_tensors_are_fine),
        cmocka_unit_test(lies_of_a_header_are_corrupt),
        cmocka_unit_test(a_shape_that_overflows_is_corrupt),
        cmocka_unit_test(other_dtypes_and_many_dimensions_are_unsupported),
        cmocka_unit_test(overlaps_holes_and_leftovers_are_corrupt),
        cmocka_unit_test(a_header_that_is_not_json_is_corrupt),
        cmocka_unit_test(a_header_length_that_lies_is_corrupt),
        cmocka_unit_test(every_truncation_is_corrupt),
        cmocka_unit_test(flipped_bits_never_pass_with_wrong_places),
        cmocka_unit_test(get_names_what_it_expected_and_found),
        cmocka_unit_test(floats_widen_exactly),
        cmocka_unit_test(shards_are_one_set),
        cmocka_unit_test(a_released_tensor_is_still_there),
        cmocka_unit_test(an_index_that_lies_is_corrupt),
        cmocka_unit_test(what_is_no_model_is_refused),
        cmocka_unit_test(a_fingerprint_sees_config_names_shapes_and_places),
        cmocka_unit_test(a_fingerprint_sees_the_checksums_of_compressed_parts),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(pieces_are_the_same_as_a_whole),
        cmocka_unit_test(a_file_without_tensors_is_valid),
        cmocka_unit_test(the_writer_refuses_what_was_not_declared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
