/* tests/bench/sub1_bench.c: ROWS COLS BATCH THREADS [ROUNDS]: the table of common/sub1/bench.h. */
#include <stdio.h>
#include <stdlib.h>

#include "sub1/bench.h"

int main(int argc, char **argv)
{
    uint32_t arg[5] = {768, 2048, 1, 1, 0};
    for (int i = 1; i < argc && i <= 5; i++) arg[i - 1] = (uint32_t)strtoul(argv[i], NULL, 10);
    fs_sub1_bench_options options = {.rows = arg[0],
                                     .cols = arg[1],
                                     .batch = arg[2],
                                     .threads = arg[3],
                                     .rounds = arg[4],
                                     .l2 = true,
                                     .dram = true};
    fs_sub1_bench_row row[FS_SUB1_BENCH_MAX_ROWS];
    uint32_t num = 0;
    fs_detail detail = {0};
    if (fs_sub1_bench(&options, row, &num, &detail) != FS_OK) return fprintf(stderr, "%s\n", detail.text), 1;
    printf("%u x %u, %u rows of x, %u threads\n%-24s %-5s %7s %9s %8s %7s %6s\n", arg[0], arg[1], arg[2],
           arg[3], "", "", "bits/w", "Gw/s", "w/cycle", "GB/s", "read");
    for (uint32_t i = 0; i < num; i++)
        printf("%-24s %-5s %7.3f %9.1f %8.1f %7.1f %5.0f%%\n", row[i].format, row[i].where,
               row[i].bits_per_weight, row[i].gweights_per_s, row[i].weights_per_cycle,
               row[i].bytes_per_s * 1e-9, 100 * row[i].share_of_memory_read);
    return 0;
}
