/* common/fabric/ucx.c: a UCX context and worker that behave as a guest in the process: its signal handlers are taken back, its words
 * go to our log, and shared memory takes part although peers may fail. */
#include <dlfcn.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include "base/log.h"
#include "fabric/fabric_int.h"

#define MM_PREFIX "MM_"

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
    /* Without shared memory or TCP (UCX_TLS) nobody takes our settings: no news. */
    bool ours = strstr(text, "invalid configuration") &&
                (strstr(text, MM_PREFIX) || strstr(text, "NET_DEVICES"));
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

/* What is set unless the operator set one of the variables. MM is the name that the two shared-memory transports (posix, sysv) share:
 * UCX 1.13 knows the variable of each, but ignores these names when they are set from inside.
 *   ERROR_HANDLING  else they take no part in connections whose peers may fail
 *   SEG_SIZE        a message in one segment: with UCX's 8 KiB, its receiver is woken by the first of several, sleeps again and is woken
 *                   again. At most 65535: UCX keeps a segment's length in 16 bits. Never another one in processes of one machine: a
 *                   sender fills the receiver's segments up to its own setting
 *   FIFO_SIZE       segments on their way to a process before its senders have to wait, of which nothing wakes them (loop.c). They are
 *                   taken in turn: 8 MiB that pass through the cache
 *   RX_BUFS_GROW    segments allocated at once: those of the queue and some */
static const struct {
    const char *name, *value;
} settings[] = {
    {"ERROR_HANDLING", "y"},
    {"SEG_SIZE", "65408"},
    {"FIFO_SIZE", "128"},
    {"RX_BUFS_GROW", "144"},
};

static bool set_by_operator(const char *name)
{
    char posix[64], sysv[64];
    snprintf(posix, sizeof(posix), "UCX_POSIX_%s", name);
    snprintf(sysv, sizeof(sysv), "UCX_SYSV_%s", name);
    if (!getenv(posix) && !getenv(sysv)) return false;
    if (strcmp(name, "ERROR_HANDLING") == 0) { /* set for one of them: the other keeps our default */
        setenv(posix, "y", 0);
        setenv(sysv, "y", 0);
    }
    return true;
}

static fs_status modify(ucp_config_t *config, const char *name, const char *value, fs_detail *detail)
{
    ucs_status_t status = ucp_config_modify(config, name, value);
    if (status == UCS_OK) return FS_OK;
    return fs_fail(detail, FS_UNAVAILABLE, "UCX: %s=%s: %s", name, value, ucs_status_string(status));
}

static fs_status set_up_shared_memory(ucp_config_t *config, fs_detail *detail)
{
    fs_status st = FS_OK;
    for (size_t i = 0; st == FS_OK && i < sizeof(settings) / sizeof(settings[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), MM_PREFIX "%s", settings[i].name);
        if (!set_by_operator(settings[i].name)) st = modify(config, name, settings[i].value, detail);
    }
    return st;
}

/* UCX's TCP transport has a listening socket on every network device that it may use. */
static fs_status keep_to_loopback(fs_fabric *fabric, ucp_config_t *config, fs_detail *detail)
{
    if (getenv("UCX_NET_DEVICES")) return FS_OK;
    struct ifaddrs *all, *one;
    if (getifaddrs(&all) != 0)
        return fs_fail(detail, FS_UNAVAILABLE, "network interfaces: %s", strerror(errno));
    for (one = all; one; one = one->ifa_next)
        if ((one->ifa_flags & IFF_LOOPBACK) && (one->ifa_flags & IFF_UP)) break;
    fs_status st = one ? modify(config, "NET_DEVICES", one->ifa_name, detail)
                       : fs_fail(detail, FS_UNAVAILABLE, "there is no loopback interface that is up");
    fabric->loopback_only = st == FS_OK;
    freeifaddrs(all);
    return st;
}

static fs_status open_context(fs_fabric *fabric, bool loopback_only, fs_detail *detail)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return fs_fail(detail, FS_UNAVAILABLE, "UCX configuration: %s", ucs_status_string(status));
    fs_status st = set_up_shared_memory(config, detail);
    if (st == FS_OK && loopback_only) st = keep_to_loopback(fabric, config, detail);
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

fs_status fs_ucx_probe(fs_fabric *fabric, fs_detail *detail)
{
    take_back_signals();
    take_over_log();
    fs_status st = open_context(fabric, false, detail);
    if (st != FS_OK) return st;
    ucp_cleanup(fabric->context);
    fabric->context = NULL;
    return FS_OK;
}

fs_status fs_ucx_open(fs_fabric *fabric, bool loopback_only, fs_detail *detail)
{
    fs_status st = open_context(fabric, loopback_only, detail);
    if (st != FS_OK) return st;
    ucs_status_t status = open_worker(fabric);
    if (status == UCS_OK) return FS_OK;
    fabric->worker = NULL;
    ucp_cleanup(fabric->context);
    fabric->context = NULL;
    return fs_fail(detail, FS_UNAVAILABLE, "UCX worker: %s", ucs_status_string(status));
}

void fs_ucx_close(fs_fabric *fabric)
{
    ucp_worker_destroy(fabric->worker);
    ucp_cleanup(fabric->context);
    fabric->worker = NULL;
    fabric->context = NULL;
}
