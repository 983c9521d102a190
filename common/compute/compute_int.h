/* common/compute/compute_int.h: what the kernel files share: the constants of the fixed polynomials, and who may run what. */
#ifndef FS_COMPUTE_INT_H
#define FS_COMPUTE_INT_H

#include "compute/constants.h"
#include "compute/kernels.h"

#define FS_LANES 16u /* virtual lanes of every sum */

/* In isa.c, which is compiled for no particular instruction set: asking must not need what is asked about. */
bool fs_isa_has_avx2(void);
bool fs_isa_has_avx512(void);
/* The widest of what the machine has and the cap allows; cap NULL or an unknown word: no cap. */
fs_isa fs_isa_pick(fs_isa machine, const char *cap);

#endif
