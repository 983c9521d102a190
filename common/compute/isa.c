/* common/compute/isa.c: which instruction set and which kernel table to use. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "compute/compute_int.h"

#define CAP_VARIABLE "FORESIGHT_ISA"

static const char *const isa_names[] = {"scalar", "avx2", "avx512", "avx512_vbmi"};
#define NUM_ISAS (sizeof isa_names / sizeof isa_names[0])

static pthread_once_t picked_once = PTHREAD_ONCE_INIT;
static fs_isa picked = FS_ISA_SCALAR;

/* Everything that the files of that name may use, as cmake/foresight.cmake compiles them. */
bool fs_isa_has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

bool fs_isa_has_avx512(void)
{
#if defined(__x86_64__)
    return fs_isa_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

static bool has_vbmi(void)
{
#if defined(__x86_64__)
    return fs_isa_has_avx512() && __builtin_cpu_supports("avx512vbmi");
#else
    return false;
#endif
}

static fs_isa machine_isa(void)
{
    if (has_vbmi()) return FS_ISA_AVX512_VBMI;
    if (fs_isa_has_avx512()) return FS_ISA_AVX512;
    return fs_isa_has_avx2() ? FS_ISA_AVX2 : FS_ISA_SCALAR;
}

static bool find_isa(const char *word, fs_isa *out)
{
    for (size_t i = 0; i < NUM_ISAS; i++) {
        if (strcmp(word, isa_names[i]) != 0) continue;
        *out = (fs_isa)i;
        return true;
    }
    return false;
}

fs_isa fs_isa_pick(fs_isa machine, const char *cap)
{
    fs_isa limit;
    if (cap == NULL || !find_isa(cap, &limit)) return machine;
    return limit < machine ? limit : machine;
}

static void pick_once(void)
{
    picked = fs_isa_pick(machine_isa(), getenv(CAP_VARIABLE));
}

fs_isa fs_isa_best(void)
{
    pthread_once(&picked_once, pick_once);
    return picked;
}

const char *fs_isa_name(fs_isa isa)
{
    return (size_t)isa < NUM_ISAS ? isa_names[isa] : "unknown";
}

const fs_kernels *fs_kernels_best(void)
{
    fs_isa isa = fs_isa_best();
    if (isa >= FS_ISA_AVX512) return &fs_kernels_avx512;
    return isa == FS_ISA_AVX2 ? &fs_kernels_avx2 : &fs_kernels_scalar;
}

fs_status fs_isa_check(fs_detail *detail)
{
    const char *cap = getenv(CAP_VARIABLE);
    fs_isa isa;
    if (cap == NULL || find_isa(cap, &isa)) return FS_OK;
    return fs_fail(detail, FS_INVALID,
                   CAP_VARIABLE ": '%.40s' is not one of scalar, avx2, avx512, avx512_vbmi", cap);
}
