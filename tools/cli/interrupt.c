/* tools/cli/interrupt.c: Ctrl-C for commands that compute without a loop. */
#include <signal.h>

#include "cli/cli.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = 1;
}

void fs_cli_watch_interrupts(void)
{
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

bool fs_cli_interrupted(void *unused)
{
    return interrupted != 0;
}
