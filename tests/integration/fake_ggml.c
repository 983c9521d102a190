/* Stands in for ggml's CPU backend: types that keep floats as they are. Compiled by test_bench_sub1.py, with one thing wrong:
 *   WRONG_DOT     Q4_0's dot product is not the sum
 *   OTHER_LAYOUT  the traits begin with something else
 *   NO_Q1_0       a library from before that type */
#include <stdint.h>
#include <string.h>

enum { Q4_0 = 2, FLOATS = 8, TQ1_0 = 34, TQ2_0 = 35, Q1_0 = 41, BLOCK = 128 };

struct type_traits {
#ifdef OTHER_LAYOUT
    int64_t added;
#endif
    const char *name;
    int64_t block_cols, interleave;
    size_t block_bytes;
    _Bool is_quantized;
    void (*to_float)(const void *, float *, int64_t);
};
struct cpu_traits {
    void (*from_float)(const float *, void *, int64_t);
    void (*vec_dot)(int, float *, size_t, const void *, size_t, const void *, size_t, int);
    int x_type;
    int64_t num_rows;
};

static void to_float(const void *stored, float *w, int64_t cols) { memcpy(w, stored, (size_t)cols * sizeof(float)); }
static void from_float(const float *x, void *stored, int64_t cols) { memcpy(stored, x, (size_t)cols * sizeof(float)); }

static void dot(int cols, float *out, size_t bs, const void *w, size_t bx, const void *x, size_t by, int rows)
{
    float sum = 0;
    for (int i = 0; i < cols; i++) sum += ((const float *)w)[i] * ((const float *)x)[i];
    *out = sum;
}

static void wrong_dot(int cols, float *out, size_t bs, const void *w, size_t bx, const void *x, size_t by, int rows)
{
    dot(cols - 1, out, bs, w, bx, x, by, rows);
    *out *= 1.01f;
}

static const char *const names[48] = {[Q4_0] = "q4_0", [FLOATS] = "floats", [TQ1_0] = "tq1_0", [TQ2_0] = "tq2_0",
#ifndef NO_Q1_0
                                      [Q1_0] = "q1_0",
#endif
};

void ggml_cpu_init(void) {}
const char *ggml_type_name(int type) { return names[type]; }
int64_t ggml_blck_size(int type) { return BLOCK; }
size_t ggml_type_size(int type) { return BLOCK * sizeof(float); }

const struct type_traits *ggml_get_type_traits(int type)
{
    static struct type_traits all[48];
    all[type] = (struct type_traits){.name = names[type], .block_cols = BLOCK, .block_bytes = BLOCK * sizeof(float),
                                     .to_float = to_float};
    return &all[type];
}

const struct cpu_traits *ggml_get_type_traits_cpu(int type)
{
    static struct cpu_traits all[48];
    all[type] = (struct cpu_traits){.from_float = from_float, .vec_dot = dot, .x_type = FLOATS};
#ifdef WRONG_DOT
    if (type == Q4_0) all[type].vec_dot = wrong_dot;
#endif
    (void)wrong_dot;
    return &all[type];
}

size_t ggml_quantize_chunk(int type, const float *w, void *out, int64_t start, int64_t rows, int64_t cols, const float *importance)
{
    memcpy(out, w, (size_t)(rows * cols) * sizeof(float));
    return (size_t)(rows * cols) * sizeof(float);
}
