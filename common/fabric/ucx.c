/* common/fabric/ucx.c: a UCX context and worker that behave as a guest in the process: its signal handlers are taken back, its words
 * go to our log, and shared memory takes part although peers may fail. */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include "base/log.h"
#include "fabric/fabric_int.h"

#define MM_SETTING "MM_ERROR_HANDLING"

/* Loading the library has already installed handlers for SIGHUP and crashes, unless the operator said otherwise. Ours, or a
 * sanitizer's, that were installed since stay. */
static void take_back_signals(void)
{
    static const int signals[] = {SIGHUP, SIGILL, SIGBUS, SIGFPE, SIGSEGV};
    if (getenv("UCX_HANDLE_ERRORS") || getenv("UCX_ERROR_SIGNALS") || getenv("UCX_DEBUG_SIGNO")) return;
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct sigaction action;
        Dl_info info;
        if (sigaction(signals[i], NULL, &action) != 0 || action.sa_handler == SIG_DFL) continue;
        if (action.sa_handler == SIG_IGN || !dladdr((void *)(uintptr_t)action.sa_handler, &info)) continue;
        if (info.dli_fname && strstr(info.dli_fname, "libucs")) ucs_debug_disable_signal(signals[i]);
    }
}

/* Whatever UCX calls an error on a connection is handled here: a peer is lost. Hence never more than a warning. */
static ucs_log_func_rc_t log_ucx(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                                 const ucs_log_component_config_t *component, const char *message, va_list ap)
{
    if (level == UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;
    char text[512];
    vsnprintf(text, sizeof(text), message, ap);
    const char *base = strrchr(file, '/');
    bool ours = strstr(text, MM_SETTING) !=
                NULL; /* without shared memory nobody takes the setting: no news */
    fs_log_at(level <= UCS_LOG_LEVEL_WARN && !ours ? FS_LOG_WARN : FS_LOG_DEBUG, "ucx",
              "at=%s:%u text=\"%s\"", base ? base + 1 : file, line, text);
    return UCS_LOG_FUNC_RC_STOP;
}

/* UCX writes to standard output by default, where a program's results belong. */
static void take_over_log(void)
{
    static bool done;
    if (done || getenv("UCX_LOG_LEVEL") || getenv("UCX_LOG_FILE")) return;
    ucs_log_push_handler(log_ucx);
    done = true;
}

/* Shared memory takes part in connections whose peers may fail only when told so. UCX 1.13 knows the variable of each transport, but as
 * a setting from inside only the name that they share (MM: the memory-mapped transports); where the operator set one of them, the other is set as a variable, too. */
static fs_status use_shared_memory(ucp_config_t *config, fs_detail *detail)
{
    static const char *const variables[] = {"UCX_POSIX_ERROR_HANDLING", "UCX_SYSV_ERROR_HANDLING"};
    if (getenv(variables[0]) || getenv(variables[1])) {
        setenv(variables[0], "y", 0);
        setenv(variables[1], "y", 0);
        return FS_OK;
    }
    ucs_status_t status = ucp_config_modify(config, MM_SETTING, "y");
    if (status == UCS_OK) return FS_OK;
    return fs_fail(detail, FS_UNAVAILABLE, "UCX: " MM_SETTING ": %s", ucs_status_string(status));
}

static fs_status open_context(fs_fabric *fabric, fs_detail *detail)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return fs_fail(detail, FS_UNAVAILABLE, "UCX configuration: %s", ucs_status_string(status));
    fs_status st = use_shared_memory(config, detail);
    if (st == FS_OK) {
        ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
                               .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
                               .name = fabric->name};
        status = ucp_init(&params, config, &fabric->context);
        if (status != UCS_OK) st = fs_fail(detail, FS_UNAVAILABLE, "UCX: %s", ucs_status_string(status));
    }
    ucp_config_release(config);
    return st;
}

static ucs_status_t open_worker(fs_fabric *fabric)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs_status_t status = ucp_worker_create(fabric->context, &params, &fabric->worker);
    if (status != UCS_OK) return status;
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = FS_FABRIC_AM_ID,
        .flags = UCP_AM_FLAG_WHOLE_MSG,
        .cb = fs_receive,
        .arg = fabric};
    status = ucp_worker_set_am_recv_handler(fabric->worker, &handler);
    if (status != UCS_OK) ucp_worker_destroy(fabric->worker);
    return status;
}

fs_status fs_ucx_open(fs_fabric *fabric, fs_detail *detail)
{
    take_back_signals();
    take_over_log();
    fs_status st = open_context(fabric, detail);
    if (st != FS_OK) return st;
    ucs_status_t status = open_worker(fabric);
    if (status == UCS_OK) return FS_OK;
    ucp_cleanup(fabric->context);
    return fs_fail(detail, FS_UNAVAILABLE, "UCX worker: %s", ucs_status_string(status));
}
