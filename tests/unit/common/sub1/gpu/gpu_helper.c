/* tests/unit/common/sub1/gpu/gpu_helper.c */
#include "gpu_helper.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "compute/kernels.h"

kind random_kind(fs_random *random)
{
    static const uint32_t permilles[] = {0, 10, 115, 115, 400, 1000};
    return (kind){.n = fs_random_below(random, 4),
                  .symmetric = fs_random_below(random, 3) == 0,
                  .permille = permilles[fs_random_below(random, 6)],
                  .clustered = fs_random_below(random, 4) == 0};
}

static bool is_nonzero(fs_random *random, kind k, uint32_t r, uint32_t c)
{
    if (k.clustered && (c / 64 + r) % 3) return false;
    return fs_random_below(random, 1000) < k.permille;
}

/* w: a row; scale: of its two signs. */
static void random_row(fs_random *random, kind k, uint32_t r, uint32_t cols, const float scale[2], float *w)
{
    for (uint32_t c = 0; c < cols && k.n == 0; c++)
        w[c] = is_nonzero(random, k, r, c) ? scale[fs_random_below(random, 2)] : 0;
    for (uint32_t c = 0; c < cols && k.n != 0; c += 16)
        for (uint32_t have = 0; have < k.n;) {
            uint32_t at = c + fs_random_below(random, 16);
            if (w[at] != 0) continue;
            w[at] = r < 2 ? scale[r] : scale[fs_random_below(random, 2)]; /* rows 0 and 1 have one sign */
            have++;
        }
}

static float *random_weights(fs_random *random, kind k, uint32_t rows, uint32_t cols)
{
    float *w = calloc((size_t)rows * cols, sizeof(float));
    FS_ASSERT(w);
    for (uint32_t r = 0; r < rows; r++) {
        float pos = fs_bf16_to_f32((fs_bf16)(0x3a00 + fs_random_below(random, 0x500)));
        float neg = k.symmetric ? -pos : -fs_bf16_to_f32((fs_bf16)(0x3a00 + fs_random_below(random, 0x500)));
        random_row(random, k, r, cols, (const float[]){pos, neg}, w + (size_t)r * cols);
    }
    return w;
}

fs_sub1_matrix random_matrix(fs_random *random, kind k, uint32_t rows, uint32_t cols, uint8_t **blob)
{
    float *w = random_weights(random, k, rows, cols);
    fs_buffer bytes = {0};
    size_t size = k.n ? fs_sub1_blob_bytes(FS_SUB1_BLOCKED, k.n, 16, rows, cols) : 0;
    fs_status st = k.n ? FS_OK : fs_sub1_encode_free(w, rows, cols, &bytes, NULL);
    if (k.n == 0) size = bytes.size;
    *blob = fs_alloc_aligned(size);
    FS_ASSERT(st == FS_OK && *blob);
    if (k.n)
        st = fs_sub1_encode_blocked(w, rows, cols, k.n, 16, *blob, NULL);
    else
        memcpy(*blob, bytes.data, size);
    fs_sub1_matrix matrix = {0};
    if (st == FS_OK) st = fs_sub1_open(*blob, size, &matrix, NULL);
    FS_ASSERT(st == FS_OK);
    fs_buffer_free(&bytes);
    free(w);
    return matrix;
}

static void new_rows(subject *s, fs_random *random, uint32_t hidden, int extreme)
{
    s->x = calloc(s->num_rows, sizeof(*s->x));
    s->x_scale = calloc(s->num_rows, sizeof(float));
    s->out = calloc(s->num_rows, sizeof(*s->out));
    s->expected = calloc(s->num_rows, sizeof(*s->expected));
    for (uint32_t r = 0; r < s->num_rows; r++) {
        s->x[r] = malloc(hidden);
        s->out[r] = malloc(hidden * sizeof(float));
        s->expected[r] = malloc(hidden * sizeof(float));
        s->x_scale[r] = (0.5f + fs_random_unit(random)) / 127;
        for (uint32_t c = 0; c < hidden; c++) {
            int v = (int)fs_random_below(random, 255) - 127;
            if (extreme == 3) v = v < 0 ? -127 : 127;
            s->x[r][c] = (int8_t)(extreme == 1 ? 127 : extreme == 2 ? -127 : v);
            s->out[r][c] = 12345;
        }
    }
}

static fs_expert_bias random_bias(fs_random *random, uint32_t rows, void **memory)
{
    if (fs_random_below(random, 2)) return (fs_expert_bias){0};
    bool is_bf16 = fs_random_below(random, 2);
    *memory = malloc(rows * sizeof(float));
    for (uint32_t i = 0; i < rows; i++) {
        float v = fs_random_unit(random) - 0.5f;
        if (is_bf16)
            ((fs_bf16 *)*memory)[i] = fs_f32_to_bf16(v);
        else
            ((float *)*memory)[i] = v;
    }
    return (fs_expert_bias){*memory, is_bf16};
}

subject new_subject(fs_random *random, uint32_t hidden, uint32_t inter, uint32_t num_rows, int extreme)
{
    subject s = {.num_rows = num_rows};
    s.expert = (fs_expert){.storage = FS_EXPERTS_SUB1,
                           .activation = (fs_activation)fs_random_below(random, FS_ACT_SWIGLU_CLAMPED + 1),
                           .swiglu_limit = 0.25f,
                           .no_gate = fs_random_below(random, 4) == 0,
                           .hidden_size = hidden,
                           .intermediate_size = inter};
    if (s.expert.activation == FS_ACT_SWIGLU_CLAMPED) s.expert.no_gate = false;
    for (int i = s.expert.no_gate; i < 3; i++) {
        uint32_t rows = i == 2 ? hidden : inter;
        s.expert.sub1[i] = random_matrix(random, random_kind(random), rows, i == 2 ? inter : hidden,
                                         &s.blob[i]);
        s.expert.bias[i] = random_bias(random, rows, &s.bias[i]);
    }
    new_rows(&s, random, hidden, extreme);
    return s;
}

void free_subject(subject *s)
{
    for (int i = 0; i < 3; i++) free(s->blob[i]), free(s->bias[i]);
    for (uint32_t r = 0; r < s->num_rows; r++) free(s->x[r]), free(s->out[r]), free(s->expected[r]);
    free(s->x), free(s->out), free(s->expected), free(s->x_scale);
}

void run_on_cpu(subject *s)
{
    void *scratch = fs_alloc_aligned(fs_expert_scratch_bytes(&s->expert, s->num_rows));
    FS_ASSERT(scratch);
    fs_expert_rows rows = {.num_rows = s->num_rows,
                           .x_i8 = (const int8_t *const *)s->x,
                           .x_scale = s->x_scale,
                           .out = s->expected};
    fs_expert_run(&s->expert, &rows, scratch, NULL);
    free(scratch);
}

bool same_bits(const subject *s)
{
    for (uint32_t r = 0; r < s->num_rows; r++)
        if (memcmp(s->out[r], s->expected[r], s->expert.hidden_size * sizeof(float)) != 0) return false;
    return true;
}

fs_device_item item_of(const subject *s, fs_device_expert *expert)
{
    return (fs_device_item){
        expert,
        {.num_rows = s->num_rows, .x_i8 = (const int8_t *const *)s->x, .x_scale = s->x_scale, .out = s->out}};
}

fs_device *new_device(const fs_gpu_emulation *emulation, const fs_device_options *options)
{
    fs_gpu_driver *driver = NULL;
    fs_status st = fs_gpu_open_emulated(emulation, &driver, NULL);
    FS_ASSERT(st == FS_OK);
    fs_device *device = NULL;
    st = fs_device_open(driver, options, &device, NULL);
    FS_ASSERT(st == FS_OK);
    return device;
}

void note(void *arg, fs_status status)
{
    outcome *o = arg;
    o->calls++;
    o->status = status;
}

void drain(fs_device *device)
{
    int polls = 0;
    while (fs_device_poll(device)) FS_ASSERT(++polls < 100000);
}

fs_device_expert *upload(fs_device *device, const fs_expert *expert)
{
    fs_device_expert *e = NULL;
    outcome o = {0};
    fs_status st = fs_device_upload(device, expert, note, &o, &e);
    FS_ASSERT(st == FS_OK);
    drain(device);
    FS_ASSERT(o.calls == 1 && o.status == FS_OK && fs_device_expert_ready(e));
    return e;
}
