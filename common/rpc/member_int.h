/* common/rpc/member_int.h: what a member checks of what it is told. */
#ifndef FS_RPC_MEMBER_INT_H
#define FS_RPC_MEMBER_INT_H

#include "foresight/v1/control.pb-c.h"
#include "rpc/rpc.h"

/* FS_CORRUPT: `replica` has not [num_moe_layers][num_experts][num_replicas] entries (or none), or an entry is no node. */
FS_MUST_USE fs_status fs_placement_check(const Foresight__V1__Placement *placement, fs_detail *detail);
bool fs_member_name_is_valid(const char *name);

#endif
