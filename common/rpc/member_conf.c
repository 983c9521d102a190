/* common/rpc/member_conf.c: see member_conf.h. */
#include "rpc/member_conf.h"

#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/worker.h"

int fs_member_begin(const fs_conf_spec *spec, int argc, char **argv, void *target, fs_member_conf *member,
                    const char *process, fs_status (*check)(fs_detail *), uint8_t key[FS_CLUSTER_KEY_BYTES],
                    fs_conf **conf)
{
    fs_detail detail = {0};
    fs_conf *loaded = NULL;
    fs_conf_outcome outcome;
    fs_status st = fs_conf_load(spec, argc, argv, environ, target, NULL, &loaded, &outcome, stdout, &detail);
    if (st == FS_OK && outcome == FS_CONF_EXIT) {
        fs_conf_destroy(loaded);
        return 0;
    }
    if (st == FS_OK && check) st = check(&detail);
    if (st == FS_OK) st = fs_cluster_key_load(member->cluster_key, member->cluster_key_file, key, &detail);
    if (st != FS_OK) {
        fprintf(stderr, "%s: %s\n", spec->program, detail.text);
        fs_conf_destroy(loaded);
        return 2;
    }
    if (member->die_with_parent) fs_process_die_with_parent();
    fs_log_init((fs_log_level)member->common.log_level, (fs_log_format)member->common.log_format, process,
                member->name);
    if (member->threads == 0) member->threads = fs_num_cpus();
    *conf = loaded;
    return FS_MEMBER_GO_ON;
}
