/* common/fabric/header.c: the header and the fabric's own messages; see header.h. */
#include "fabric/header.h"

#include <sodium.h>
#include <string.h>
#include <xxhash.h>

#include "base/buffer.h"

enum { HELLO_FIXED_BYTES = 24 + FS_NONCE_BYTES };
_Static_assert(FS_PROOF_BYTES + HELLO_FIXED_BYTES + FS_FABRIC_NAME_MAX <= FS_CONTROL_MAX, "a challenge fits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "put copies the bytes as they lie");

static uint8_t *put(uint8_t *p, const void *v, size_t size)
{
    memcpy(p, v, size);
    return p + size;
}

void fs_header_encode(const fs_header *h, uint8_t out[FS_HEADER_BYTES])
{
    const uint32_t magic = FS_FABRIC_MAGIC;
    uint8_t *p = put(out, &magic, 4);
    p = put(p, &h->version, 2);
    p = put(p, &h->type, 2);
    p = put(p, &h->to, 8);
    p = put(p, &h->seq, 8);
    p = put(p, &h->returned, 8);
    put(p, &h->checksum, 8);
}

fs_status fs_header_decode(const uint8_t *data, size_t size, fs_header *out, fs_detail *detail)
{
    if (size != FS_HEADER_BYTES)
        return fs_fail(detail, FS_CORRUPT, "header: %zu bytes, not %u", size, FS_HEADER_BYTES);
    fs_reader r = fs_reader_of(data, size);
    uint32_t magic = fs_read_u32(&r);
    fs_header h = {.version = fs_read_u16(&r)};
    h.type = fs_read_u16(&r);
    h.to = fs_read_u64(&r);
    h.seq = fs_read_u64(&r);
    h.returned = fs_read_u64(&r);
    h.checksum = fs_read_u64(&r);
    if (magic != FS_FABRIC_MAGIC) return fs_fail(detail, FS_CORRUPT, "header: magic 0x%08x", magic);
    if (h.type == 0 || (h.type > FS_MSG_BYE && h.type < FS_MSG_DATA))
        return fs_fail(detail, FS_CORRUPT, "header: type %u is not known", h.type);
    *out = h;
    return FS_OK;
}

uint64_t fs_header_checksum(const void *data, size_t size, uint64_t to, uint64_t seq)
{
    return XXH3_64bits_withSeed(data, size, to + seq);
}

bool fs_name_is_valid(const char *name, size_t size)
{
    if (size == 0 || size > FS_FABRIC_NAME_MAX) return false;
    for (size_t i = 0; i < size; i++)
        if (name[i] <= ' ' || name[i] >= 0x7f) return false;
    return true;
}

/* u64 id, u64 max_message, u32 credits, u16 zero, u16 length of the name, nonce, name. */
size_t fs_hello_encode(const fs_hello *h, uint8_t out[FS_CONTROL_MAX])
{
    const uint16_t zero = 0, name_size = (uint16_t)strnlen(h->name, FS_FABRIC_NAME_MAX);
    uint8_t *p = put(out, &h->id, 8);
    p = put(p, &h->max_message, 8);
    p = put(p, &h->credits, 4);
    p = put(p, &zero, 2);
    p = put(p, &name_size, 2);
    p = put(p, h->nonce, sizeof(h->nonce));
    p = put(p, h->name, name_size);
    return (size_t)(p - out);
}

static fs_status check_hello(const fs_hello *h, uint16_t zero, fs_detail *detail)
{
    if (zero != 0) return fs_fail(detail, FS_CORRUPT, "hello: reserved field is not zero");
    if (h->id == 0) return fs_fail(detail, FS_CORRUPT, "hello: connection id is 0");
    if (h->credits == 0 || h->credits > FS_CREDITS_MAX)
        return fs_fail(detail, FS_CORRUPT, "hello: credits %u are not in 1..%u", h->credits, FS_CREDITS_MAX);
    if (h->max_message == 0 || h->max_message > FS_MAX_MESSAGE_MAX)
        return fs_fail(detail, FS_CORRUPT, "hello: max_message %llu", (unsigned long long)h->max_message);
    return FS_OK;
}

fs_status fs_hello_decode(const uint8_t *data, size_t size, fs_hello *out, fs_detail *detail)
{
    fs_reader r = fs_reader_of(data, size);
    fs_hello h = {.id = fs_read_u64(&r)};
    h.max_message = fs_read_u64(&r);
    h.credits = fs_read_u32(&r);
    uint16_t zero = fs_read_u16(&r), name_size = fs_read_u16(&r);
    const uint8_t *nonce = fs_read_bytes(&r, sizeof(h.nonce));
    const uint8_t *name = fs_read_bytes(&r, name_size);
    if (r.short_read || !nonce || fs_reader_left(&r) != 0)
        return fs_fail(detail, FS_CORRUPT, "hello: %zu bytes are not its length", size);
    fs_status st = check_hello(&h, zero, detail);
    if (st != FS_OK) return st;
    if (!name || !fs_name_is_valid((const char *)name, name_size))
        return fs_fail(detail, FS_CORRUPT, "hello: name of %u bytes is empty, too long or not printable",
                       name_size);
    memcpy(h.nonce, nonce, sizeof(h.nonce));
    memcpy(h.name, name, name_size);
    *out = h;
    return FS_OK;
}

size_t fs_challenge_encode(const fs_hello *hello, const uint8_t proof[FS_PROOF_BYTES],
                           uint8_t out[FS_CONTROL_MAX])
{
    uint8_t text[FS_CONTROL_MAX];
    size_t size = fs_hello_encode(hello, text);
    memcpy(out, proof, FS_PROOF_BYTES);
    memcpy(out + FS_PROOF_BYTES, text, size);
    return FS_PROOF_BYTES + size;
}

fs_status fs_challenge_decode(const uint8_t *data, size_t size, fs_hello *out, uint8_t proof[FS_PROOF_BYTES],
                              fs_detail *detail)
{
    if (size < FS_PROOF_BYTES) return fs_fail(detail, FS_CORRUPT, "challenge: %zu bytes", size);
    fs_status st = fs_hello_decode(data + FS_PROOF_BYTES, size - FS_PROOF_BYTES, out, detail);
    if (st == FS_OK) memcpy(proof, data, FS_PROOF_BYTES);
    return st;
}

fs_status fs_refuse_decode(const uint8_t *data, size_t size, fs_refusal *out, fs_detail *detail)
{
    fs_reader r = fs_reader_of(data, size);
    uint32_t why = fs_read_u32(&r);
    if (size != 4 || why < FS_REFUSE_DENIED || why > FS_REFUSE_CORRUPT)
        return fs_fail(detail, FS_CORRUPT, "refuse: %zu bytes, reason %u", size, why);
    *out = (fs_refusal)why;
    return FS_OK;
}

static void hash_hello(crypto_generichash_state *state, const fs_hello *hello)
{
    uint8_t text[FS_CONTROL_MAX];
    size_t size = fs_hello_encode(hello, text); /* it holds its own length */
    crypto_generichash_update(state, text, size);
}

void fs_proof_make(const uint8_t key[FS_FABRIC_KEY_BYTES], fs_role role, const fs_hello *connector,
                   const fs_hello *listener, uint8_t out[FS_PROOF_BYTES])
{
    static const char domain[16] = "foresight-fabric";
    const uint8_t head[2] = {FS_FABRIC_VERSION, (uint8_t)role};
    crypto_generichash_state state;
    crypto_generichash_init(&state, key, FS_FABRIC_KEY_BYTES, FS_PROOF_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)domain, sizeof(domain));
    crypto_generichash_update(&state, head, sizeof(head));
    hash_hello(&state, connector);
    hash_hello(&state, listener);
    crypto_generichash_final(&state, out, FS_PROOF_BYTES);
    sodium_memzero(&state, sizeof(state));
}

bool fs_proof_equal(const uint8_t a[FS_PROOF_BYTES], const uint8_t b[FS_PROOF_BYTES])
{
    return sodium_memcmp(a, b, FS_PROOF_BYTES) == 0;
}
