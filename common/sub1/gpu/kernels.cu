/* common/sub1/gpu/kernels.cu: the kernels as nvcc compiles them, into one fatbin for all its targets (CMakeLists.txt). */
#include "gpu/blocked_kernels.h"
#include "gpu/float_kernels.h"
#include "gpu/free_kernels.h"
