/* common/sub1/bench/ggml.c: a library of ggml, found and mistrusted. */
#include "bench/ggml.h"

#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/random.h"

/* As ggml.h and ggml-cpu.h have them. */
typedef struct {
    const char *name;
    int64_t block_cols, interleave;
    size_t block_bytes;
    bool is_quantized;
    void (*to_float)(const void *, float *, int64_t);
} type_traits;
typedef struct {
    void (*from_float)(const float *, void *, int64_t);
    void (*vec_dot)(int, float *, size_t, const void *, size_t, const void *, size_t, int);
    int x_type;
    int64_t num_rows;
} cpu_traits;

struct fs_ggml {
    char path[512]; /* what was loaded, for messages */
    void *base, *library;
    void (*cpu_init)(void);
    const type_traits *(*traits)(int type);
    const cpu_traits *(*cpu)(int type);
    const char *(*type_name)(int type);
    int64_t (*block_cols)(int type);
    size_t (*block_bytes)(int type);
    size_t (*quantize)(int type, const float *w, void *out, int64_t start, int64_t rows, int64_t cols,
                       const float *importance);
};

/* Numbers of types are in every GGUF file, and so do not change. */
static const struct {
    const char *name;
    int id;
} wanted[FS_GGML_NUM_TYPES] = {{"TQ1_0", 34}, {"TQ2_0", 35}, {"Q1_0", 41}, {"Q4_0", 2}};

/* ---- the library ---- */

/* libggml-cpu.so needs libggml-base.so, and may look for it where it was once built: the one beside it is loaded first. */
static void load_base(fs_ggml *g)
{
    char path[sizeof(g->path) + 32];
    const char *slash = strrchr(g->path, '/');
    snprintf(path, sizeof(path), "%.*slibggml-base.so", slash ? (int)(slash + 1 - g->path) : 0, g->path);
    g->base = slash ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
}

static fs_status load(fs_ggml *g, const char *path, fs_detail *detail)
{
    static const char *const names[] = {"libggml-cpu.so", "libggml.so"};
    struct stat info;
    if (strlen(path) > sizeof(g->path) - 32) return fs_fail(detail, FS_INVALID, "ggml: the path is too long");
    if (stat(path, &info) != 0) return fs_fail(detail, FS_NOT_FOUND, "ggml: %s: there is no such file", path);
    /* With a '/' in it, or the loader would look in its own folders. */
    snprintf(g->path, sizeof(g->path), "%s%s", strchr(path, '/') ? "" : "./", path);
    for (size_t i = 0; S_ISDIR(info.st_mode) && i < sizeof(names) / sizeof(*names); i++) {
        snprintf(g->path, sizeof(g->path), "%s/%s", path, names[i]);
        if (stat(g->path, &info) == 0) break;
    }
    if (S_ISDIR(info.st_mode))
        return fs_fail(detail, FS_NOT_FOUND, "ggml: %s: the folder has no %s and no %s", path, names[0],
                       names[1]);
    load_base(g);
    g->library = dlopen(g->path, RTLD_NOW | RTLD_LOCAL);
    return g->library ? FS_OK : fs_fail(detail, FS_NOT_FOUND, "ggml: %s", dlerror());
}

static fs_status find_functions(fs_ggml *g, fs_detail *detail)
{
    const struct {
        const char *name;
        void *into;
    } function[] = {{"ggml_cpu_init", &g->cpu_init},       {"ggml_get_type_traits", &g->traits},
                    {"ggml_get_type_traits_cpu", &g->cpu}, {"ggml_type_name", &g->type_name},
                    {"ggml_blck_size", &g->block_cols},    {"ggml_type_size", &g->block_bytes},
                    {"ggml_quantize_chunk", &g->quantize}};
    for (size_t i = 0; i < sizeof(function) / sizeof(*function); i++) {
        void *found = dlsym(g->library, function[i].name);
        if (!found)
            return fs_fail(detail, FS_UNSUPPORTED,
                           "ggml: %s has no function %s: it is not the CPU backend of ggml, or an older one",
                           g->path, function[i].name);
        memcpy(function[i].into, &found, sizeof(found));
    }
    return FS_OK;
}

fs_status fs_ggml_open(const char *path, fs_ggml **out, fs_detail *detail)
{
    fs_ggml *g = calloc(1, sizeof(*g));
    if (!g) return fs_fail(detail, FS_NO_MEMORY, "no memory");
    fs_status st = load(g, path, detail);
    if (st == FS_OK) st = find_functions(g, detail);
    if (st != FS_OK) {
        fs_ggml_close(g);
        return st;
    }
    g->cpu_init(); /* makes tables that dot products look into */
    *out = g;
    return FS_OK;
}

void fs_ggml_close(fs_ggml *g)
{
    if (!g) return;
    if (g->library) dlclose(g->library);
    if (g->base) dlclose(g->base);
    free(g);
}

/* ---- types ---- */

/* Whether a pointer that ggml gave leads into a library that is loaded: what a structure of another version has in that place seldom does. */
static bool is_loaded(const void *pointer)
{
    Dl_info info;
    return pointer && dladdr(pointer, &info) != 0;
}

/* Of function pointers, which C does not let become others. */
#define IS_FUNCTION(f) is_loaded((const void *)(uintptr_t)(f))

static bool has_name(const fs_ggml *g, int id, const char *name)
{
    const char *found = g->type_name(id);
    if (!is_loaded(found)) return false; /* an older library does not know the number */
    for (size_t i = 0; i <= strlen(name); i++)
        if (tolower((unsigned char)found[i]) != tolower((unsigned char)name[i])) return false;
    return true;
}

static bool fits(int64_t cols, size_t bytes)
{
    return cols >= 1 && cols <= 4096 && bytes >= 1 && bytes <= 65536;
}

static fs_status read_traits(const fs_ggml *g, fs_ggml_type *t, fs_detail *detail)
{
    const type_traits *traits = g->traits(t->id);
    const cpu_traits *cpu = g->cpu(t->id);
    bool known = is_loaded(traits) && is_loaded(cpu) && traits->name == g->type_name(t->id) &&
                 traits->block_cols == g->block_cols(t->id) && traits->block_bytes == g->block_bytes(t->id) &&
                 fits(traits->block_cols, traits->block_bytes) && IS_FUNCTION(traits->to_float) &&
                 IS_FUNCTION(cpu->vec_dot) && cpu->x_type >= 0 && cpu->x_type < 256;
    const cpu_traits *x = known ? g->cpu(cpu->x_type) : NULL;
    if (!known || !is_loaded(x) || !IS_FUNCTION(x->from_float) ||
        !fits(g->block_cols(cpu->x_type), g->block_bytes(cpu->x_type)))
        return fs_fail(detail, FS_UNSUPPORTED, "ggml: %s: %s is laid out in a way that is not known here",
                       g->path, t->name);
    t->x_id = cpu->x_type;
    t->block_cols = (size_t)traits->block_cols;
    t->block_bytes = traits->block_bytes;
    t->x_block_cols = (size_t)g->block_cols(t->x_id);
    t->x_block_bytes = g->block_bytes(t->x_id);
    t->to_float = traits->to_float;
    t->vec_dot = cpu->vec_dot;
    t->x_from_float = x->from_float;
    return FS_OK;
}

size_t fs_ggml_row_bytes(const fs_ggml_type *type, uint32_t cols)
{
    return cols / type->block_cols * type->block_bytes;
}

size_t fs_ggml_x_bytes(const fs_ggml_type *type, uint32_t cols)
{
    return cols / type->x_block_cols * type->x_block_bytes;
}

fs_status fs_ggml_quantise(const fs_ggml_type *type, const float *w, uint32_t rows, uint32_t cols, void *out,
                           fs_detail *detail)
{
    size_t want = rows * fs_ggml_row_bytes(type, cols);
    size_t wrote = type->ggml->quantize(type->id, w, out, 0, rows, cols, NULL);
    if (wrote == want) return FS_OK;
    return fs_fail(detail, FS_UNSUPPORTED, "ggml: %s: %s: wrote %zu bytes where %zu are expected",
                   type->ggml->path, type->name, wrote, want);
}

/* ---- the check ---- */

enum { CHECK_ROWS = 4, CHECK_COLS = 4096 };

typedef struct {
    float w[CHECK_ROWS * CHECK_COLS], stored[CHECK_COLS], x[CHECK_COLS];
    uint8_t w_bytes[CHECK_ROWS * CHECK_COLS * sizeof(float)], x_bytes[CHECK_COLS * sizeof(float)];
} check_rows;

/* Ternary weights, and rows of x that are whole numbers, with a 127 in every 16: every way to store x in int8 keeps them exactly. */
static void fill_check(check_rows *c)
{
    static const float value[4] = {0, 0, 0.5f, -0.5f};
    fs_random random = {7};
    for (size_t i = 0; i < CHECK_ROWS * CHECK_COLS; i++) c->w[i] = value[fs_random_below(&random, 4)];
    for (size_t i = 0; i < CHECK_COLS; i++)
        c->x[i] = i % 16 == 5 ? 127.0f : (float)((int)fs_random_below(&random, 255) - 127);
}

static fs_status check_row(const fs_ggml_type *t, check_rows *c, const uint8_t *row, fs_detail *detail)
{
    t->to_float(row, c->stored, CHECK_COLS);
    float got = NAN;
    t->vec_dot(CHECK_COLS, &got, 0, row, 0, c->x_bytes, 0, 1);
    double want = 0, size = 0;
    for (size_t i = 0; i < CHECK_COLS; i++) {
        want += (double)c->stored[i] * c->x[i];
        size += fabs((double)c->stored[i] * c->x[i]);
    }
    if (size > 0 && fabs(got - want) <= 1e-4 * size) return FS_OK;
    return fs_fail(detail, FS_UNSUPPORTED, "ggml: %s: %s: a dot product is %g, in floats it is %g",
                   t->ggml->path, t->name, (double)got, want);
}

static fs_status check_dots(const fs_ggml_type *t, fs_detail *detail)
{
    size_t row = fs_ggml_row_bytes(t, CHECK_COLS), x = fs_ggml_x_bytes(t, CHECK_COLS);
    if (CHECK_COLS % t->block_cols || CHECK_COLS % t->x_block_cols || row > CHECK_COLS * sizeof(float) ||
        x > CHECK_COLS * sizeof(float))
        return fs_fail(detail, FS_UNSUPPORTED, "ggml: %s: %s: blocks of %zu columns in %zu bytes",
                       t->ggml->path, t->name, t->block_cols, t->block_bytes);
    check_rows *c = fs_alloc_aligned(sizeof(*c));
    if (!c) return fs_fail(detail, FS_NO_MEMORY, "no memory");
    fill_check(c);
    fs_status st = fs_ggml_quantise(t, c->w, CHECK_ROWS, CHECK_COLS, c->w_bytes, detail);
    if (st == FS_OK) t->x_from_float(c->x, c->x_bytes, CHECK_COLS);
    for (size_t r = 0; st == FS_OK && r < CHECK_ROWS; r++) st = check_row(t, c, c->w_bytes + r * row, detail);
    free(c);
    return st;
}

fs_status fs_ggml_find(const fs_ggml *ggml, uint32_t index, fs_ggml_type *out, fs_detail *detail)
{
    fs_ggml_type type = {.ggml = ggml, .name = wanted[index].name, .id = wanted[index].id};
    if (!has_name(ggml, type.id, type.name))
        return fs_fail(detail, FS_NOT_FOUND, "ggml: %s has no type %s", ggml->path, type.name);
    fs_status st = read_traits(ggml, &type, detail);
    if (st == FS_OK) st = check_dots(&type, detail);
    if (st == FS_OK) *out = type;
    return st;
}
