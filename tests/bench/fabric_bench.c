/* tests/bench/fabric_bench.c: round trips and throughput of the fabric between two processes. UCX_TLS chooses the transports.
 *   fabric_bench [SPIN_US]   sizes: a ping, a dispatch of 64 rows of 256 int8, its result in float32, 1 MiB */
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "fabric/fabric.h"

extern char **environ;

enum { MAX_ROUNDS = 20000, WINDOW = 32 };

typedef struct {
    fs_fabric *fabric;
    fs_peer *peer;
    bool echo, up, down;
    uint8_t *data;
    size_t size;
    uint32_t rounds, window, sent, received;
    int64_t started_ns[MAX_ROUNDS], took_ns[MAX_ROUNDS];
} bench;

static void send_one(bench *b, const void *data, size_t size)
{
    fs_slice part = {data, size};
    if (fs_fabric_send(b->peer, 20, &part, 1, NULL) != FS_OK) abort();
}

static void fill_window(bench *b)
{
    while (b->sent < b->rounds && b->sent - b->received < b->window) {
        b->started_ns[b->sent++] = (int64_t)uv_hrtime();
        send_one(b, b->data, b->size);
    }
}

static void on_up(void *arg, fs_peer *peer)
{
    ((bench *)arg)->peer = peer;
    ((bench *)arg)->up = true;
}

static void on_down(void *arg, fs_peer *peer, fs_status why, const char *text)
{
    ((bench *)arg)->down = true;
}

static void on_message(void *arg, fs_peer *peer, uint16_t type, const uint8_t *data, size_t size)
{
    bench *b = arg;
    if (b->echo) {
        send_one(b, data, size);
        return;
    }
    b->took_ns[b->received] = (int64_t)uv_hrtime() - b->started_ns[b->received];
    b->received++;
    fill_window(b);
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void run(bench *b, uv_loop_t *loop, size_t size, uint32_t rounds, uint32_t window)
{
    b->size = size;
    b->rounds = rounds;
    b->window = window;
    b->sent = b->received = 0;
    int64_t start = (int64_t)uv_hrtime();
    fill_window(b);
    while (b->received < rounds && !b->down) uv_run(loop, UV_RUN_ONCE);
    double seconds = (double)((int64_t)uv_hrtime() - start) * 1e-9;
    qsort(b->took_ns, rounds, sizeof(b->took_ns[0]), by_size);
    printf("%8zu bytes, %2u in flight: %9.0f messages/s each way, %7.0f MB/s, round trip p50 %6.1f us, p99 "
           "%6.1f us\n",
           size, window, rounds / seconds, (double)size * rounds / seconds * 1e-6,
           (double)b->took_ns[rounds / 2] * 1e-3, (double)b->took_ns[rounds - 1 - rounds / 100] * 1e-3);
}

static void start(bench *b, uv_loop_t *loop, int64_t spin_ns)
{
    fs_fabric_options options;
    fs_detail detail = {0};
    fs_fabric_options_init(&options);
    options.name = b->echo ? "echo" : "bench";
    options.spin_ns = spin_ns;
    options.handlers = (fs_fabric_handlers){on_up, on_down, on_message, NULL, b};
    fs_log_init(FS_LOG_ERROR, FS_LOG_LOGFMT, "bench", "");
    if (fs_fabric_create(loop, &options, &b->fabric, &detail) != FS_OK) {
        fprintf(stderr, "%s\n", detail.text);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static bench b;
    uv_loop_t *loop = uv_default_loop();
    fs_detail detail = {0};
    b.echo = argc > 2 && strcmp(argv[1], "--echo") == 0;
    const char *spin = b.echo ? argv[3] : argc > 1 ? argv[1] : "20";
    start(&b, loop, atoll(spin) * 1000);
    if (b.echo) {
        fs_peer *peer;
        if (fs_fabric_connect(b.fabric, argv[2], NULL, &peer, &detail) != FS_OK) return 1;
        while (!b.down) uv_run(loop, UV_RUN_ONCE);
        return 0;
    }
    char address[128];
    if (fs_fabric_listen(b.fabric, "127.0.0.1:0", address, &detail) != FS_OK) return 1;
    char *child_argv[] = {argv[0], "--echo", address, (char *)spin, NULL};
    pid_t child;
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, child_argv, environ) != 0) return 1;
    while (!b.up) uv_run(loop, UV_RUN_ONCE);
    b.data = calloc(1, 1 << 20);
    const size_t sizes[] = {64, 17152, 66112, 1 << 20};
    for (int i = 0; i < 4; i++) {
        run(&b, loop, sizes[i], 500, 1); /* warm */
        run(&b, loop, sizes[i], i == 3 ? 1000 : 10000, 1);
        run(&b, loop, sizes[i], i == 3 ? 1000 : 10000, WINDOW);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    free(b.data);
    return 0;
}
