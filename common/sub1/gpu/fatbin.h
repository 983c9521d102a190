/* common/sub1/gpu/fatbin.h: the kernels as nvcc left them, inside this program; or none, where there was no nvcc. */
#ifndef FS_GPU_FATBIN_H
#define FS_GPU_FATBIN_H

#include <stdbool.h>

extern const bool fs_gpu_has_fatbin;
extern const unsigned char fs_gpu_fatbin[]; /* says itself how long it is; a byte 0 if there is none */

#endif
