/* Stored clusters: whatever loads keeps the table's invariants and can be saved, loaded and reported again. Input: a byte for the
 * replicas, a u16 for the length of the members' part, both parts. */
#include <stdlib.h>

#include "membership/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const fs_cluster *c)
{
    fs_buffer out = {0};
    fs_cluster_check(c);
    fs_cluster_share *shares = calloc(c->num_placed + 1, sizeof(*shares));
    if (!shares) return;
    fs_cluster_shares(c, shares);
    fs_cluster_problems(c, shares, &out);
    free(shares);
    (void)fs_cluster_unavailable(c);
    fs_cluster_save(c, &out);
    fs_buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    const fs_cluster_options options = {4, 1 + data[0] % 4, 2000, 60000, 1};
    size_t first = data[1] | (size_t)data[2] << 8;
    data += 3;
    size -= 3;
    if (first > size) first = size;
    fs_cluster c;
    if (fs_cluster_init(&c, &options, 0, NULL) == FS_OK &&
        fs_cluster_load(&c, data, first, data + first, size - first, 0, NULL) == FS_OK) {
        use(&c);
        fs_cluster_tick(&c, 3000);
        use(&c);
    }
    fs_cluster_fini(&c);
    return 0;
}
