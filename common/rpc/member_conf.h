/* common/rpc/member_conf.h: what every router and expert node is told alike, and how such a process begins. */
#ifndef FS_RPC_MEMBER_CONF_H
#define FS_RPC_MEMBER_CONF_H

#include "base/conf.h"
#include "base/process.h"

/* A part of a process's options; the strings live as long as its fs_conf. */
typedef struct {
    const char *model, *listen, *advertise, *coordinator, *name, *rack, *cluster_key, *cluster_key_file;
    uint32_t threads; /* never 0 after fs_member_begin */
    bool die_with_parent;
    fs_conf_common common;
} fs_member_conf;

/* To be spread into a table, before and behind the process's own options. */
#define FS_MEMBER_CONF(conf_type, field, default_name, listen_help)                                          \
    {.name = "model",                                                                                        \
     .type = FS_CONF_STRING,                                                                                 \
     .offset = offsetof(conf_type, field.model),                                                             \
     .value_name = "DIR",                                                                                    \
     .required = true,                                                                                       \
     .help = "The model directory; every member of a cluster has the same one."},                            \
        {.name = "listen",                                                                                   \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.listen),                                                        \
         .default_text = "127.0.0.1:0",                                                                      \
         .value_name = "ADDR",                                                                               \
         .help = listen_help},                                                                               \
        {.name = "advertise",                                                                                \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.advertise),                                                     \
         .value_name = "ADDR",                                                                               \
         .help = "The address that the cluster is told, if it is not the one listened on."},                 \
        {.name = "coordinator",                                                                              \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.coordinator),                                                   \
         .value_name = "ADDR",                                                                               \
         .required = true,                                                                                   \
         .help = "The coordinator's gRPC address."},                                                         \
        {.name = "name",                                                                                     \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.name),                                                          \
         .default_text = default_name,                                                                       \
         .value_name = "NAME",                                                                               \
         .help = "This member's name, unique in the cluster: 1..63 of [a-z0-9-]."},                          \
        {.name = "rack",                                                                                     \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.rack),                                                          \
         .default_text = "",                                                                                 \
         .value_name = "NAME",                                                                               \
         .help = "Where it stands; replicas are spread over racks, and asked in the own rack first."},       \
    {                                                                                                        \
        .name = "threads", .type = FS_CONF_U32, .offset = offsetof(conf_type, field.threads),                \
        .default_text = "0", .max = 1024, .help = "Threads that compute; 0: one for each usable CPU."        \
    }
#define FS_MEMBER_CONF_TRUST(conf_type, field)                                                               \
    {.name = "cluster-key",                                                                                  \
     .type = FS_CONF_STRING,                                                                                 \
     .offset = offsetof(conf_type, field.cluster_key),                                                       \
     .secret = true,                                                                                         \
     .value_name = "HEX",                                                                                    \
     .help = "The cluster's key, 64 hexadecimal digits; better given as FORESIGHT_CLUSTER_KEY or a file."},  \
        {.name = "cluster-key-file",                                                                         \
         .type = FS_CONF_STRING,                                                                             \
         .offset = offsetof(conf_type, field.cluster_key_file),                                              \
         .value_name = "FILE",                                                                               \
         .help = "The file that holds the key, readable by its owner alone."},                               \
        {.name = "die-with-parent",                                                                          \
         .type = FS_CONF_BOOL,                                                                               \
         .offset = offsetof(conf_type, field.die_with_parent),                                               \
         .default_text = "false",                                                                            \
         .help = "Stop when the process that started this one ends."},                                       \
        FS_CONF_COMMON(conf_type, field.common)

/* Begins a member's process: options, check (what else must hold, as fs_isa_check; may be NULL), cluster key, parent, log. target: the
 * options' struct, of which member is a part; process: as the log names it. FS_MEMBER_GO_ON: conf is the caller's to
 * destroy; otherwise the exit status, all said and freed. Thread: main, before others start. */
enum { FS_MEMBER_GO_ON = -1 };
int fs_member_begin(const fs_conf_spec *spec, int argc, char **argv, void *target, fs_member_conf *member,
                    const char *process, fs_status (*check)(fs_detail *), uint8_t key[FS_CLUSTER_KEY_BYTES],
                    fs_conf **conf);

#endif
