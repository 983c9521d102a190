/* tools/compress/experts.c: the experts of a layer, several at a time. */
#include "compress.h"
#include "model/names.h"

enum { MAX_WORKERS = 64 };

typedef struct {
    fs_expert_fn *fn;
    void *arg;
    uint32_t layer, first;
    fs_status status[MAX_WORKERS];
    fs_detail detail[MAX_WORKERS];
} batch;

static void run_one(void *arg, uint32_t index)
{
    batch *b = arg;
    b->status[index] = b->fn(b->arg, index, b->layer, b->first + index, &b->detail[index]);
}

uint32_t fs_num_workers(const fs_pool *pool)
{
    uint32_t threads = fs_pool_num_threads(pool);
    return threads < MAX_WORKERS ? threads : MAX_WORKERS;
}

fs_status fs_each_expert(const fs_model_config *config, uint32_t layer, fs_pool *pool, fs_expert_fn *fn,
                         fs_batch_fn *after, void *arg, fs_detail *detail)
{
    batch b = {.fn = fn, .arg = arg, .layer = layer};
    for (; b.first < config->num_experts; b.first += fs_num_workers(pool)) {
        if (fs_compress_stopped()) return fs_fail(detail, FS_CANCELLED, "stopped");
        uint32_t count = fs_num_workers(pool), left = config->num_experts - b.first;
        if (count > left) count = left;
        fs_pool_run(pool, run_one, &b, count);
        for (uint32_t i = 0; i < count; i++)
            if (b.status[i] != FS_OK) return *detail = b.detail[i], b.status[i];
        fs_status st = after ? after(arg, count, detail) : FS_OK;
        if (st != FS_OK) return st;
    }
    return FS_OK;
}

size_t fs_max_part_weights(const fs_model_config *config)
{
    size_t most = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) {
        uint32_t rows, cols;
        fs_expert_part_shape(config, (fs_expert_part)i, &rows, &cols);
        if ((size_t)rows * cols > most) most = (size_t)rows * cols;
    }
    return most;
}
