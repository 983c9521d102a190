/* common/sub1/gpu/fatbin.c: the file that CMakeLists.txt had nvcc make, put into the program by the assembler. */
#include "gpu/fatbin.h"

#ifdef FS_GPU_FATBIN_FILE
const bool fs_gpu_has_fatbin = true;
__asm__(".pushsection .rodata\n"
        ".balign 64\n"
        ".global fs_gpu_fatbin\n"
        "fs_gpu_fatbin:\n"
        ".incbin \"" FS_GPU_FATBIN_FILE "\"\n"
        ".balign 8\n"
        ".popsection\n");
#else
const bool fs_gpu_has_fatbin = false;
const unsigned char fs_gpu_fatbin[] = {0};
#endif
