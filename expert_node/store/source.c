/* expert_node/store/source.c: how an expert is brought into memory: opened on the mapping, or read by the loader; verified either way. */
#include <stdlib.h>

#include "base/arena.h"
#include "store/store_int.h"

enum { READS = 8, READ_BYTES = 1 << 20 };

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + FS_SUB1_ALIGN - 1) / FS_SUB1_ALIGN * FS_SUB1_ALIGN;
}

uint64_t fs_store_bytes_of(const fs_store *store, const fs_expert_range *range)
{
    if (store->memory_bytes == 0) return range->bytes;
    uint64_t bytes = fs_expert_widened_bytes(&store->config, range);
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) bytes += aligned(range->part[i]->size);
    return bytes;
}

void fs_held_free(fs_held *held)
{
    if (!held) return;
    free(held->widened);
    free(held->bytes);
    free(held);
}

/* ---- on a worker thread: config and tensors do not change, the load is its own ---- */

static void run_map(fs_job *job)
{
    fs_store_load *l = (fs_store_load *)((char *)job - offsetof(fs_store_load, job));
    const fs_store *store = l->store;
    l->status = fs_expert_open(&store->config, &l->range, &l->held->expert, &l->held->widened, &l->detail);
}

static fs_status verify(fs_load *load, fs_detail *detail)
{
    fs_store_load *l = (fs_store_load *)load;
    const uint8_t *part[FS_NUM_EXPERT_PARTS], *at = l->held->bytes;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; at += aligned(l->range.part[i++]->size)) part[i] = at;
    return fs_expert_open_parts(&l->store->config, &l->range, part, &l->held->expert, &l->held->widened,
                                detail);
}

/* ---- on the loop ---- */

static void end(fs_store_load *l)
{
    fs_store *store = l->store;
    fs_store_loaded(l);
    l->held = NULL;
    l->next_free = store->free_load;
    store->free_load = l;
    fs_store_go(store);
}

static void map_done(fs_job *job)
{
    end((fs_store_load *)((char *)job - offsetof(fs_store_load, job)));
}

static void read_done(fs_load *load)
{
    fs_store_load *l = (fs_store_load *)load;
    l->status = load->status;
    l->detail = load->detail;
    end(l);
}

/* Parts that lie one behind the other are one range, which is what the loader joins with its neighbours. */
static void plan_ranges(fs_store_load *l)
{
    fs_load *load = &l->load;
    uint8_t *to = l->held->bytes;
    load->num_ranges = 0;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; to += aligned(l->range.part[i++]->size)) {
        const fs_tensor *t = l->range.part[i];
        fs_load_range *last = load->num_ranges ? &load->range[load->num_ranges - 1] : NULL;
        if (last && last->file == t->file && last->offset + last->bytes == t->file_offset &&
            last->to + last->bytes == to)
            last->bytes += t->size;
        else
            load->range[load->num_ranges++] = (fs_load_range){t->file, t->file_offset, t->size, to};
    }
}

/* Memory that is not there fails the load on a worker's turn, as a bad file does. */
static void fail_later(fs_job *job)
{
    fs_store_load *l = (fs_store_load *)((char *)job - offsetof(fs_store_load, job));
    l->status = fs_fail(&l->detail, FS_NO_MEMORY, "no memory for an expert");
}

static bool alloc_held(fs_store_load *l, uint32_t key)
{
    fs_store *store = l->store;
    uint64_t bytes = 0;
    l->held = calloc(1, sizeof(*l->held));
    FS_ASSERT(l->held); /* a few words; a failed expert needs them too */
    l->held->store = store;
    l->held->key = key;
    if (!store->loader) return true;
    for (int i = 0; i < FS_NUM_EXPERT_PARTS; i++) bytes += aligned(l->range.part[i]->size);
    l->held->bytes = fs_alloc_aligned(bytes);
    return l->held->bytes != NULL;
}

void fs_store_begin(fs_store *store, uint32_t key, bool urgent)
{
    fs_store_load *l = store->free_load;
    FS_ASSERT(l); /* as many as the cache begins */
    store->free_load = l->next_free;
    l->status = fs_expert_find(&store->config, store->tensors, fs_store_layer_of(store, key),
                               fs_store_expert_of(store, key), &l->range, &l->detail);
    FS_ASSERT(l->status == FS_OK); /* it was found at start */
    l->detail = (fs_detail){0};
    bool ok = alloc_held(l, key);
    l->job = (fs_job){.run = ok ? run_map : fail_later, .done = map_done};
    if (!ok || !store->loader) {
        fs_worker_post(store->worker, &l->job);
        return;
    }
    l->load = (fs_load){.verify = verify, .done = read_done};
    plan_ranges(l);
    fs_loader_start(store->loader, &l->load, urgent);
}

void fs_store_hurry(fs_store *store, uint32_t key)
{
    for (uint32_t i = 0; store->loader && i < store->num_loads; i++)
        if (store->loads[i].held && store->loads[i].held->key == key)
            fs_loader_hurry(store->loader, &store->loads[i].load);
}

void fs_store_flush(fs_store *store)
{
    if (store->loader) fs_loader_go(store->loader);
}

/* ---- life ---- */

static fs_status open_loader(fs_store *store, uv_loop_t *loop, fs_detail *detail)
{
    const fs_loader_options options = {
        .num_reads = READS, .read_bytes = READ_BYTES, .threads = store->load_threads};
    fs_status st = fs_loader_create(loop, &options, &store->loader, detail);
    for (uint32_t f = 0; st == FS_OK && f < fs_tensors_num_files(store->tensors); f++)
        st = fs_loader_add_file(store->loader, fs_tensors_file_path(store->tensors, f), detail);
    return st;
}

fs_status fs_store_open_source(fs_store *store, uv_loop_t *loop, uint32_t num_loads, fs_detail *detail)
{
    store->loads = calloc(num_loads, sizeof(*store->loads));
    if (!store->loads) return fs_fail(detail, FS_NO_MEMORY, "no memory for %u loads", num_loads);
    store->num_loads = num_loads;
    for (uint32_t i = num_loads; i-- > 0;) {
        store->loads[i].store = store;
        store->loads[i].next_free = store->free_load;
        store->free_load = &store->loads[i];
    }
    fs_status st = fs_worker_create(loop, "open", store->memory_bytes ? 1 : store->load_threads,
                                    &store->worker);
    if (st != FS_OK) return fs_fail(detail, st, "no thread for opening experts");
    return store->memory_bytes ? open_loader(store, loop, detail) : FS_OK;
}

void fs_store_close_source(fs_store *store)
{
    fs_loader_destroy(store->loader); /* joins their threads: what a load left is ours from here */
    fs_worker_destroy(store->worker);
    for (uint32_t i = 0; store->loads && i < store->num_loads; i++) fs_held_free(store->loads[i].held);
    free(store->loads);
}
