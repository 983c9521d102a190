/* What running an expert promises: the documented sequence of operations, alone or in a batch, on one thread or many. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "model/names.h"
#include "sub1/expert.h"
#include "sub1_helper.h"

enum { MAX_ROWS = 13 };

/* An expert with memory of its own, and rows for it. */
typedef struct {
    fs_expert expert;
    uint8_t *blob[3];
    float *dense[3], *bias[3];
    int8_t *x_i8[MAX_ROWS];
    float *x_f32[MAX_ROWS], *out[MAX_ROWS], x_scale[MAX_ROWS];
} fixture;

static void part_shape(const fs_expert *e, int part, uint32_t *rows, uint32_t *cols)
{
    *rows = part == FS_PART_DOWN ? e->hidden_size : e->intermediate_size;
    *cols = part == FS_PART_DOWN ? e->intermediate_size : e->hidden_size;
}

static void new_fixture(fixture *f, fs_expert_storage storage, uint32_t hidden, uint32_t inter, uint64_t seed)
{
    fs_random random = {seed};
    memset(f, 0, sizeof(*f));
    f->expert = (fs_expert){
        .storage = storage, .activation = FS_ACT_SILU, .hidden_size = hidden, .intermediate_size = inter};
    for (int i = 0; i < 3; i++) {
        uint32_t rows, cols;
        part_shape(&f->expert, i, &rows, &cols);
        f->expert.sub1[i] = random_of_rate(&random, 2, false, rows, cols, &f->blob[i]);
        f->dense[i] = malloc(sizeof(float) * rows * cols);
        fs_sub1_decode(&f->expert.sub1[i], f->dense[i]);
        f->expert.dense[i] = (fs_matrix){f->dense[i], false, rows, cols};
    }
    for (int r = 0; r < MAX_ROWS; r++) {
        f->x_i8[r] = malloc(hidden); /* to the byte: padding is the callee's affair */
        f->x_f32[r] = malloc(sizeof(float) * hidden);
        f->out[r] = malloc(sizeof(float) * hidden);
        for (uint32_t c = 0; c < hidden; c++) f->x_f32[r][c] = 4 * fs_random_unit(&random) - 2;
        f->x_scale[r] = fs_kernels_best()->quantize_i8(f->x_f32[r], f->x_i8[r], hidden);
    }
}

static void free_fixture(fixture *f)
{
    for (int i = 0; i < 3; i++) free(f->blob[i]), free(f->dense[i]), free(f->bias[i]);
    for (int r = 0; r < MAX_ROWS; r++) free(f->x_i8[r]), free(f->x_f32[r]), free(f->out[r]);
}

static void run(fixture *f, uint32_t first, uint32_t num_rows, fs_pool *pool)
{
    size_t bytes = fs_expert_scratch_bytes(&f->expert, num_rows);
    void *scratch = fs_alloc_aligned(bytes);
    memset(scratch, 0x7f, bytes); /* what an earlier call left must not matter */
    fs_expert_rows rows = {num_rows, (const int8_t *const *)f->x_i8 + first, f->x_scale + first,
                           (const float *const *)f->x_f32 + first, f->out + first};
    fs_expert_run(&f->expert, &rows, scratch, pool);
    free(scratch);
}

/* One row by the definition: integer sums by a loop over decoded weights. */
static void product(const float *w, uint32_t rows, uint32_t cols, const int8_t *x, float scale, float *y)
{
    for (uint32_t o = 0; o < rows; o++) {
        float pos = 0, neg = 0;
        int32_t p = 0, n = 0;
        for (uint32_t c = 0; c < cols; c++) {
            float v = w[(size_t)o * cols + c];
            if (v > 0) pos = v, p += x[c];
            if (v < 0) neg = v, n += x[c];
        }
        float left = pos * (float)p, right = neg * (float)n;
        y[o] = scale * (left + right);
    }
}

static void by_definition(const fixture *f, uint32_t row, float *out)
{
    uint32_t hidden = f->expert.hidden_size, inter = f->expert.intermediate_size;
    float *gate = malloc(sizeof(float) * inter), *up = malloc(sizeof(float) * inter);
    int8_t *a = malloc(inter);
    if (!f->expert.no_gate)
        product(f->dense[FS_PART_GATE], inter, hidden, f->x_i8[row], f->x_scale[row], gate);
    product(f->dense[FS_PART_UP], inter, hidden, f->x_i8[row], f->x_scale[row], up);
    for (uint32_t i = 0; i < inter && f->bias[0]; i++) {
        if (!f->expert.no_gate) gate[i] += f->bias[FS_PART_GATE][i];
        up[i] += f->bias[FS_PART_UP][i];
    }
    fs_expert_activate(&f->expert, &fs_kernels_scalar, f->expert.no_gate ? NULL : gate, up, up, inter);
    float scale = fs_kernels_scalar.quantize_i8(up, a, inter);
    product(f->dense[FS_PART_DOWN], hidden, inter, a, scale, out);
    for (uint32_t i = 0; i < hidden && f->bias[0]; i++) out[i] += f->bias[FS_PART_DOWN][i];
    free(gate), free(up), free(a);
}

static const uint32_t sizes[][2] = {{64, 128},  {16, 16},  {80, 48}, {256, 384},
                                    {48, 1040}, {100, 37}, {33, 17}, {65, 130}};
enum { NUM_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

static void sub1_is_the_documented_sequence(void **state)
{
    for (int i = 0; i < NUM_SIZES; i++) {
        fixture f;
        new_fixture(&f, FS_EXPERTS_SUB1, sizes[i][0], sizes[i][1], 20 + (uint64_t)i);
        run(&f, 0, MAX_ROWS, NULL);
        float *expected = malloc(sizeof(float) * sizes[i][0]);
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            by_definition(&f, r, expected);
            assert_memory_equal(expected, f.out[r], sizeof(float) * sizes[i][0]);
        }
        free(expected), free_fixture(&f);
    }
}

static void add_biases(fixture *f, uint64_t seed)
{
    fs_random random = {seed};
    for (int i = 0; i < 3; i++) {
        uint32_t rows, cols;
        part_shape(&f->expert, i, &rows, &cols);
        f->bias[i] = malloc(sizeof(float) * rows);
        for (uint32_t r = 0; r < rows; r++) f->bias[i][r] = fs_random_unit(&random) - 0.5f;
        f->expert.bias[i].data = f->bias[i];
    }
}

static void biases_gate_and_activation_have_their_places(void **state)
{
    static const fs_activation all[] = {FS_ACT_SILU, FS_ACT_GELU, FS_ACT_GELU_TANH, FS_ACT_RELU,
                                        FS_ACT_SWIGLU_CLAMPED};
    for (int i = 0; i < 20; i++) {
        fixture f;
        new_fixture(&f, FS_EXPERTS_SUB1, 100, 150, 60 + (uint64_t)i);
        f.expert.activation = all[i % 5];
        f.expert.swiglu_limit = 0.3f;
        f.expert.no_gate = i / 5 % 2 && f.expert.activation != FS_ACT_SWIGLU_CLAMPED;
        if (i / 10) add_biases(&f, 61);
        run(&f, 0, MAX_ROWS, NULL);
        float expected[100];
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            by_definition(&f, r, expected);
            assert_memory_equal(expected, f.out[r], sizeof(expected));
        }
        free_fixture(&f);
    }
}

static void bf16_biases_are_widened_exactly(void **state)
{
    fixture f;
    new_fixture(&f, FS_EXPERTS_SUB1, 64, 96, 70);
    add_biases(&f, 71);
    fs_bf16 narrow[3][96];
    for (int i = 0; i < 3; i++) {
        uint32_t rows, cols;
        part_shape(&f.expert, i, &rows, &cols);
        for (uint32_t r = 0; r < rows; r++) {
            narrow[i][r] = fs_f32_to_bf16(f.bias[i][r]);
            f.bias[i][r] = fs_bf16_to_f32(narrow[i][r]);
        }
        f.expert.bias[i] = (fs_expert_bias){narrow[i], true};
    }
    run(&f, 0, 3, NULL);
    float expected[64];
    for (uint32_t r = 0; r < 3; r++) {
        by_definition(&f, r, expected);
        assert_memory_equal(expected, f.out[r], sizeof(expected));
    }
    free_fixture(&f);
}

static double reference(fs_activation activation, double g, double u, double limit)
{
    switch (activation) {
    case FS_ACT_RELU: return (g > 0 ? g : 0) * u;
    case FS_ACT_GELU: return g * 0.5 * erfc(-g * sqrt(0.5)) * u;
    case FS_ACT_GELU_TANH:
        return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g))) * u;
    case FS_ACT_SWIGLU_CLAMPED:
        g = g > limit ? limit : g;
        u = u > limit ? limit : u < -limit ? -limit : u;
        return g / (1 + exp(-1.702 * g)) * (u + 1);
    default: return g / (1 + exp(-g)) * u;
    }
}

static void activations_are_what_their_names_say_with_every_table(void **state)
{
    enum { N = 4001 };
    static float gate[N], up[N], a[N], other[N];
    for (int i = 0; i < N; i++) gate[i] = (float)(i - N / 2) / 200, up[i] = i % 7 - 3.25f;
    const fs_kernels *const tables[] = {&fs_kernels_avx2, &fs_kernels_avx512};
    for (fs_activation activation = FS_ACT_SILU; activation <= FS_ACT_SWIGLU_CLAMPED; activation++) {
        fs_expert e = {.activation = activation, .swiglu_limit = 2.5f};
        fs_expert_activate(&e, &fs_kernels_scalar, gate, up, a, N);
        for (int i = 0; i < N; i++) {
            double expected = reference(activation, (double)gate[i], (double)up[i], 2.5);
            assert_true(fabs((double)a[i] - expected) <= 2e-6 * fabs(expected) + 1e-7);
        }
        for (int k = 0; k < 2; k++) {
            if (!tables[k]->usable()) continue;
            fs_expert_activate(&e, tables[k], gate, up, other, N);
            assert_memory_equal(a, other, sizeof(a));
        }
        if (activation == FS_ACT_SWIGLU_CLAMPED) continue;
        fs_expert_activate(&e, &fs_kernels_scalar, NULL, gate, a, N);
        for (int i = 0; i < N; i++) {
            double expected = reference(activation, (double)gate[i], 1, 0);
            assert_true(fabs((double)a[i] - expected) <= 2e-6 * fabs(expected) + 1e-7);
        }
    }
}

/* The formats of an expert's parts may differ. */
static void free_parts_give_the_same_sums(void **state)
{
    fs_pool *pool;
    assert_int_equal(fs_pool_create(3, &pool), FS_OK);
    fixture f;
    const uint32_t hidden = 336, inter = 1040;
    new_fixture(&f, FS_EXPERTS_SUB1, hidden, inter, 80);
    for (int mix = 1; mix < 8; mix++) {
        uint8_t *blob[3] = {0};
        fixture g = f;
        for (int i = 0; i < 3; i++) {
            if (!(mix >> i & 1)) continue;
            uint32_t rows, cols;
            part_shape(&f.expert, i, &rows, &cols);
            fs_buffer out = {0};
            assert_int_equal(fs_sub1_encode_free(f.dense[i], rows, cols, &out, NULL), FS_OK);
            blob[i] = fs_alloc_aligned(out.size);
            memcpy(blob[i], out.data, out.size);
            assert_int_equal(fs_sub1_open(blob[i], out.size, &g.expert.sub1[i], NULL), FS_OK);
            fs_buffer_free(&out);
        }
        run(&g, 0, MAX_ROWS, pool);
        float expected[336];
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            by_definition(&f, r, expected);
            assert_memory_equal(expected, g.out[r], sizeof(expected));
        }
        for (int i = 0; i < 3; i++) free(blob[i]);
    }
    free_fixture(&f);
    fs_pool_destroy(pool);
}

static void a_row_depends_on_neither_batch_nor_threads(void **state)
{
    fs_pool *pool;
    assert_int_equal(fs_pool_create(3, &pool), FS_OK);
    const fs_expert_storage storages[] = {FS_EXPERTS_SUB1, FS_EXPERTS_DENSE};
    for (int i = 0; i < 2; i++) {
        fixture f;
        const uint32_t hidden = 336, inter = 1040; /* large enough to be divided over the pool */
        new_fixture(&f, storages[i], hidden, inter, 30);
        run(&f, 0, MAX_ROWS, pool);
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            float *batched = malloc(sizeof(float) * hidden);
            memcpy(batched, f.out[r], sizeof(float) * hidden);
            memset(f.out[r], 0, sizeof(float) * hidden);
            run(&f, r, 1, NULL);
            assert_memory_equal(batched, f.out[r], sizeof(float) * hidden);
            free(batched);
        }
        free_fixture(&f);
    }
    fs_pool_destroy(pool);
}

static void dense_is_close_to_sub1(void **state)
{
    fixture f, d;
    new_fixture(&f, FS_EXPERTS_SUB1, 256, 384, 40);
    new_fixture(&d, FS_EXPERTS_DENSE, 256, 384, 40);
    run(&f, 0, MAX_ROWS, NULL);
    run(&d, 0, MAX_ROWS, NULL);
    double error = 0, size = 0;
    for (int r = 0; r < MAX_ROWS; r++) {
        for (int c = 0; c < 256; c++) {
            double difference = (double)f.out[r][c] - (double)d.out[r][c];
            error += difference * difference;
            size += (double)d.out[r][c] * (double)d.out[r][c];
        }
    }
    assert_true(size > 0 && error < 0.05 * 0.05 * size); /* what int8 activations cost */
    free_fixture(&f), free_fixture(&d);
}

static void a_broken_row_stays_visibly_broken(void **state)
{
    fixture f;
    new_fixture(&f, FS_EXPERTS_SUB1, 64, 128, 50);
    f.x_scale[1] = __builtin_nanf("");
    run(&f, 0, 3, NULL);
    float *expected = malloc(sizeof(float) * 64);
    for (int c = 0; c < 64; c++) assert_true(f.out[1][c] != f.out[1][c]);
    by_definition(&f, 2, expected);
    assert_memory_equal(expected, f.out[2], sizeof(float) * 64);
    free(expected), free_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sub1_is_the_documented_sequence),
        cmocka_unit_test(biases_gate_and_activation_have_their_places),
        cmocka_unit_test(bf16_biases_are_widened_exactly),
        cmocka_unit_test(activations_are_what_their_names_say_with_every_table),
        cmocka_unit_test(free_parts_give_the_same_sums),
        cmocka_unit_test(a_row_depends_on_neither_batch_nor_threads),
        cmocka_unit_test(dense_is_close_to_sub1),
        cmocka_unit_test(a_broken_row_stays_visibly_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
