/* common/fabric/spin.c: see spin.h. */
#include "fabric/spin.h"

void fs_spin_init(fs_spin *spin, int64_t spin_ns)
{
    *spin = (fs_spin){.spin_ns = spin_ns};
}

void fs_spin_active(fs_spin *spin, int64_t now_ns)
{
    if (spin->polling) spin->skip = 0;
    spin->waiting = spin->polling = false;
    spin->since_ns = now_ns;
}

static void begin_wait(fs_spin *spin)
{
    spin->waiting = true;
    spin->polling = spin->spin_ns > 0 && spin->left == 0;
    if (spin->left > 0) spin->left--;
}

static void give_up(fs_spin *spin)
{
    spin->polling = false;
    spin->skip = spin->skip == 0 ? 1 : spin->skip * 2;
    if (spin->skip > FS_SPIN_MAX_SKIP) spin->skip = FS_SPIN_MAX_SKIP;
    spin->left = spin->skip;
}

bool fs_spin_idle(fs_spin *spin, int64_t now_ns)
{
    if (!spin->waiting) begin_wait(spin);
    if (spin->polling && now_ns - spin->since_ns >= spin->spin_ns) give_up(spin);
    return spin->polling;
}
