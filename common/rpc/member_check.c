/* common/rpc/member_check.c: the shape of names and placements. */
#include <string.h>

#include "rpc/member_int.h"

fs_status fs_placement_check(const Foresight__V1__Placement *p, fs_detail *detail)
{
    if (p->n_replica == 0) return FS_OK;
    size_t experts, entries;
    if (!fs_mul_size(p->num_moe_layers, p->num_experts, &experts) ||
        !fs_mul_size(experts, p->num_replicas, &entries) || entries != p->n_replica)
        return fs_fail(detail, FS_CORRUPT,
                       "placement %llu: %zu replica entries for %u layers of %u experts with %u replicas",
                       (unsigned long long)p->epoch, p->n_replica, p->num_moe_layers, p->num_experts,
                       p->num_replicas);
    for (size_t i = 0; i < p->n_replica; i++)
        if (p->replica[i] >= p->n_nodes && p->replica[i] != UINT32_MAX)
            return fs_fail(detail, FS_CORRUPT, "placement %llu: replica[%zu] is node %u of %zu",
                           (unsigned long long)p->epoch, i, p->replica[i], p->n_nodes);
    return FS_OK;
}

bool fs_member_name_is_valid(const char *name)
{
    size_t len = name ? strlen(name) : 0;
    return len >= 1 && len <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}
