/* tests/unit/common/sub1/gpu/gpu_helper.c */
#include "../sub1_helper.c" /* the formats' own test data */

#include "gpu_helper.h"

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

subject new_subject(fs_random *random, uint32_t hidden, uint32_t inter, uint32_t num_rows, int extreme)
{
    subject s = {.num_rows = num_rows};
    s.expert = (fs_expert){.storage = FS_EXPERTS_SUB1,
                           .activation = FS_ACT_SILU,
                           .hidden_size = hidden,
                           .intermediate_size = inter};
    for (int i = 0; i < 3; i++)
        s.expert.sub1[i] = random_matrix(random, i == 2 ? hidden : inter, i == 2 ? inter : hidden,
                                         &s.blob[i]);
    new_rows(&s, random, hidden, extreme);
    return s;
}

void free_subject(subject *s)
{
    for (int i = 0; i < 3; i++) free(s->blob[i]);
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
