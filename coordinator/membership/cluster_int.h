/* coordinator/membership/cluster_int.h: the table's inner steps. */
#ifndef FS_MEMBERSHIP_CLUSTER_INT_H
#define FS_MEMBERSHIP_CLUSTER_INT_H

#include "membership/cluster.h"

/* Including those that are not shown. at: where it is, or would be. */
fs_cluster_member *fs_cluster_lookup(const fs_cluster *cluster, const char *name, uint32_t *at);
/* A zeroed member of that name in its place. NULL: no memory. */
fs_cluster_member *fs_cluster_insert(fs_cluster *cluster, const char *name);
/* Not one that is placed. */
void fs_cluster_remove(fs_cluster *cluster, uint32_t at);
void fs_cluster_note_add(fs_cluster *cluster, fs_note_kind kind, const char *name);
/* Makes the placement if there is none, enough nodes are there and the experts fit. FS_NO_MEMORY. */
FS_MUST_USE fs_status fs_cluster_place(fs_cluster *cluster);
/* A member's state from what is known of it; whether it changed. */
bool fs_cluster_update(fs_cluster *cluster, fs_cluster_member *member);
/* The placement that watchers see has changed. */
void fs_cluster_bump(fs_cluster *cluster);

static inline bool fs_cluster_is_alive(const fs_cluster_member *m)
{
    return m->state != FS_NODE_LOST;
}
/* Whether its experts are answered. */
static inline bool fs_cluster_answers(const fs_cluster_member *m)
{
    return m->state == FS_NODE_READY || m->state == FS_NODE_DRAINING;
}

#endif
