/* coordinator/kv/kv.c: the store as one SQLite table. */
#include "kv/kv.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct fs_kv {
    sqlite3 *db;
    sqlite3_stmt *get, *put, *delete;
    char *path;
};

enum { APPLICATION_ID = 0x46534b56 /* "FSKV" */, VERSION = 1 };

/* What SQLite said, as a status that a caller can act on. */
static fs_status failed(const fs_kv *kv, int rc, const char *what, fs_detail *detail)
{
    fs_status st = FS_IO;
    const char *text = kv->db ? sqlite3_errmsg(kv->db) : sqlite3_errstr(rc);
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return fs_fail(detail, FS_UNAVAILABLE, "%s: in use by another process", kv->path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: st = FS_CORRUPT; break;
    case SQLITE_NOMEM: st = FS_NO_MEMORY; break;
    default: break;
    }
    return fs_fail(detail, st, "%s: %s: %s", kv->path, what, text);
}

static fs_status execute(fs_kv *kv, const char *sql, const char *what, fs_detail *detail)
{
    int rc = sqlite3_exec(kv->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? FS_OK : failed(kv, rc, what, detail);
}

/* The one value of a one-row statement: a number, or a text compared with expected (1: equal). */
static fs_status query(fs_kv *kv, const char *sql, const char *expected, int64_t *out, fs_detail *detail)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(kv->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
    fs_status st = rc == SQLITE_ROW ? FS_OK : failed(kv, rc, "cannot be read", detail);
    if (st == FS_OK) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        *out = expected ? text && strcmp(text, expected) == 0 : sqlite3_column_int64(stmt, 0);
    }
    sqlite3_finalize(stmt);
    return st;
}

/* An empty file becomes a store; any other must be one. */
static fs_status check_file(fs_kv *kv, fs_detail *detail)
{
    int64_t tables = 0, id = 0, version = 0, sound = 0;
    fs_status st = query(kv, "SELECT count(*) FROM sqlite_schema", NULL, &tables, detail);
    if (st == FS_OK) st = query(kv, "PRAGMA application_id", NULL, &id, detail);
    if (st == FS_OK) st = query(kv, "PRAGMA user_version", NULL, &version, detail);
    if (st != FS_OK) return st;
    if (tables == 0 && id == 0 && version == 0) {
        char sql[200];
        sqlite3_snprintf(
            sizeof(sql), sql,
            "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;"
            "PRAGMA application_id=%d; PRAGMA user_version=%d",
            APPLICATION_ID, VERSION);
        return execute(kv, sql, "cannot be set up", detail);
    }
    if (id != APPLICATION_ID)
        return fs_fail(detail, FS_CORRUPT, "%s: an SQLite file, but not a foresight store", kv->path);
    if (version != VERSION)
        return fs_fail(detail, FS_UNSUPPORTED, "%s: a store of format %d, and this version knows %d",
                       kv->path, (int)version, VERSION);
    st = query(kv, "PRAGMA quick_check(1)", "ok", &sound, detail);
    if (st == FS_OK && !sound) st = fs_fail(detail, FS_CORRUPT, "%s: the file is damaged", kv->path);
    return st;
}

static fs_status prepare(fs_kv *kv, sqlite3_stmt **out, const char *sql, fs_detail *detail)
{
    int rc = sqlite3_prepare_v3(kv->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    return rc == SQLITE_OK ? FS_OK : failed(kv, rc, "is not laid out as a store", detail);
}

static fs_status open_all(fs_kv *kv, fs_detail *detail)
{
    int rc = sqlite3_open_v2(kv->path, &kv->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (rc != SQLITE_OK) return failed(kv, rc, "cannot be opened", detail);
    /* Exclusive: two coordinators on one file would give the same epoch to different placements. */
    fs_status st = execute(kv,
                           "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=TRUNCATE; PRAGMA "
                           "synchronous=FULL; BEGIN EXCLUSIVE",
                           "cannot be locked", detail);
    if (st != FS_OK) return st;
    st = check_file(kv, detail);
    fs_status end = execute(kv, st == FS_OK ? "COMMIT" : "ROLLBACK", "cannot be written",
                            st == FS_OK ? detail : NULL);
    if (st == FS_OK) st = end;
    if (st == FS_OK) st = prepare(kv, &kv->get, "SELECT value, sum FROM kv WHERE key=?1", detail);
    if (st == FS_OK)
        st = prepare(kv, &kv->put,
                     "INSERT INTO kv VALUES(?1,?2,?3) ON CONFLICT(key) DO UPDATE SET value=?2, sum=?3",
                     detail);
    if (st == FS_OK) st = prepare(kv, &kv->delete, "DELETE FROM kv WHERE key=?1", detail);
    return st;
}

fs_status fs_kv_open(const char *path, fs_kv **out, fs_detail *detail)
{
    fs_kv *kv = calloc(1, sizeof(*kv));
    if (!kv) return FS_NO_MEMORY;
    kv->path = strdup(path);
    fs_status st = kv->path ? open_all(kv, detail) : FS_NO_MEMORY;
    if (st == FS_OK)
        *out = kv;
    else
        fs_kv_close(kv);
    return st;
}

void fs_kv_close(fs_kv *kv)
{
    if (!kv) return;
    sqlite3_finalize(kv->get);
    sqlite3_finalize(kv->put);
    sqlite3_finalize(kv->delete);
    sqlite3_close(kv->db);
    free(kv->path);
    free(kv);
}

/* The key belongs to the sum: a value under the wrong key is as bad as a wrong value. */
static int64_t checksum(const char *key, const void *value, size_t size)
{
    return (int64_t)XXH3_64bits_withSeed(value, size, XXH3_64bits(key, strlen(key)));
}

fs_status fs_kv_get(fs_kv *kv, const char *key, fs_buffer *out, fs_detail *detail)
{
    sqlite3_stmt *get = kv->get;
    sqlite3_bind_text(get, 1, key, -1, SQLITE_STATIC);
    int rc = sqlite3_step(get);
    fs_status st = FS_OK;
    if (rc == SQLITE_ROW) {
        const void *value = sqlite3_column_blob(get, 0);
        size_t size = (size_t)sqlite3_column_bytes(get, 0);
        if (checksum(key, value ? value : "", size) != sqlite3_column_int64(get, 1))
            st = fs_fail(detail, FS_CORRUPT, "%s: the checksum of '%s' is wrong", kv->path, key);
        if (st == FS_OK) fs_buffer_append(out, value, size);
        if (st == FS_OK && out->failed) st = FS_NO_MEMORY;
    } else if (rc == SQLITE_DONE) {
        st = fs_fail(detail, FS_NOT_FOUND, "%s: no '%s'", kv->path, key);
    } else {
        st = failed(kv, rc, "cannot be read", detail);
    }
    sqlite3_reset(get);
    sqlite3_clear_bindings(get);
    return st;
}

static fs_status write_one(fs_kv *kv, const fs_kv_put *p, fs_detail *detail)
{
    if (strlen(p->key) > FS_KV_MAX_KEY || p->size > FS_KV_MAX_VALUE)
        return fs_fail(detail, FS_INVALID, "%s: '%.40s': a key of %zu or a value of %zu bytes is too long",
                       kv->path, p->key, strlen(p->key), p->size);
    sqlite3_stmt *stmt = p->value ? kv->put : kv->delete;
    sqlite3_bind_text(stmt, 1, p->key, -1, SQLITE_STATIC);
    if (p->value) {
        sqlite3_bind_blob(stmt, 2, p->value, (int)p->size, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 3, checksum(p->key, p->value, p->size));
    }
    int rc = sqlite3_step(stmt);
    fs_status st = rc == SQLITE_DONE ? FS_OK : failed(kv, rc, "cannot be written", detail);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return st;
}

fs_status fs_kv_write(fs_kv *kv, const fs_kv_put *puts, uint32_t num_puts, fs_detail *detail)
{
    fs_status st = execute(kv, "BEGIN IMMEDIATE", "cannot be written", detail);
    if (st != FS_OK) return st;
    for (uint32_t i = 0; i < num_puts && st == FS_OK; i++) st = write_one(kv, &puts[i], detail);
    if (st == FS_OK) st = execute(kv, "COMMIT", "cannot be written", detail);
    if (st != FS_OK) {
        /* SQLite may have rolled back by itself; then this one fails, and nothing is lost by it. */
        fs_status undone = execute(kv, "ROLLBACK", "", NULL);
        (void)undone;
    }
    return st;
}
