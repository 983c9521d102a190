/* common/rpc/wait.c: a call that a command-line tool waits for. */
#include <stdlib.h>
#include <string.h>

#include "rpc/rpc_int.h"

typedef struct {
    uint8_t *response;
    size_t size;
    bool has_response, no_memory, ended;
    fs_rpc_code code;
    fs_detail *detail;
} waiting;

static void on_message(void *arg, fs_rpc_request *request, const uint8_t *message, size_t size)
{
    waiting *w = arg;
    uint8_t *copy = malloc(size ? size : 1);
    w->no_memory = w->no_memory || !copy;
    if (!copy) return;
    memcpy(copy, message, size);
    free(w->response);
    w->response = copy;
    w->size = size;
    w->has_response = true;
}

static void on_end(void *arg, fs_rpc_request *request, fs_rpc_code code, const char *text)
{
    waiting *w = arg;
    w->ended = true;
    w->code = code;
    if (code != FS_RPC_OK) (void)fs_fail(w->detail, FS_UNAVAILABLE, "%s: %s", fs_rpc_code_name(code), text);
}

/* What a caller can do about it, from what the other side said. */
static fs_status status_of(fs_rpc_code code)
{
    switch (code) {
    case FS_RPC_OK: return FS_OK;
    case FS_RPC_CANCELLED: return FS_CANCELLED;
    case FS_RPC_INVALID_ARGUMENT:
    case FS_RPC_OUT_OF_RANGE:
    case FS_RPC_ALREADY_EXISTS:
    case FS_RPC_FAILED_PRECONDITION: return FS_INVALID;
    case FS_RPC_DEADLINE_EXCEEDED: return FS_DEADLINE;
    case FS_RPC_NOT_FOUND: return FS_NOT_FOUND;
    case FS_RPC_PERMISSION_DENIED:
    case FS_RPC_UNAUTHENTICATED: return FS_DENIED;
    case FS_RPC_RESOURCE_EXHAUSTED: return FS_EXHAUSTED;
    case FS_RPC_UNIMPLEMENTED: return FS_UNSUPPORTED;
    case FS_RPC_ABORTED:
    case FS_RPC_UNAVAILABLE: return FS_UNAVAILABLE;
    case FS_RPC_DATA_LOSS: return FS_CORRUPT;
    default: return FS_INTERNAL;
    }
}

fs_status fs_rpc_call_wait(fs_rpc_channel *channel, uv_loop_t *loop, const char *path, const uint8_t *message,
                           size_t size, int64_t timeout_ns, uint8_t **response, size_t *response_size,
                           fs_rpc_code *code, fs_detail *detail)
{
    waiting w = {.detail = detail};
    fs_rpc_client_handlers handlers = {on_message, on_end, &w};
    int64_t now = fs_clock_now(fs_clock_system());
    int64_t deadline = timeout_ns >= FS_NEVER - now ? FS_NEVER : now + timeout_ns;
    fs_status st = fs_rpc_start(channel, path, message, size, deadline, &handlers, NULL);
    if (st != FS_OK) return fs_fail(detail, st, "%s: the call cannot be made: %s", path, fs_status_name(st));
    while (!w.ended) uv_run(loop, UV_RUN_ONCE);
    st = status_of(w.code);
    if (st == FS_OK && w.no_memory)
        st = fs_fail(detail, FS_NO_MEMORY, "%s: no memory for the response", path);
    if (st == FS_OK && !w.has_response)
        st = fs_fail(detail, FS_INTERNAL, "%s: answered without a message", path);
    if (code) *code = w.code;
    if (st == FS_OK) {
        *response = w.response;
        *response_size = w.size;
    } else {
        free(w.response);
    }
    return st;
}
