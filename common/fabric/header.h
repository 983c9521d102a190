/* common/fabric/header.h: the header of every active message, and the fabric's own messages: how two processes meet. Encoders and
 * checked decoders, all little-endian. The first 16 bytes of the header and REFUSE stay the same in every version. */
#ifndef FS_FABRIC_HEADER_H
#define FS_FABRIC_HEADER_H

#include "base/status.h"
#include "fabric/fabric.h"

#define FS_FABRIC_MAGIC   0x42465346u /* "FSFB" */
#define FS_FABRIC_VERSION 2u          /* 1: had no BYE, and smaller segments of shared memory */

enum {
    FS_MSG_HELLO = 1,     /* who connects: its name, nonce and window (fs_hello) */
    FS_MSG_CHALLENGE = 2, /* the answer: proof of the cluster key, then the same of the listener */
    FS_MSG_PROOF = 3,     /* the proof of who connects */
    FS_MSG_READY = 4,     /* the listener is satisfied */
    FS_MSG_REFUSE = 5,    /* u32 fs_refusal; the connection ends */
    FS_MSG_PING = 6,
    FS_MSG_PONG = 7,
    FS_MSG_CREDIT = 8, /* its header returns credits */
    FS_MSG_BYE = 9,    /* closed on purpose; seq: how many data messages went before */
    FS_MSG_DATA = 16   /* and above: the owner's */
};

typedef enum { FS_REFUSE_DENIED = 1, FS_REFUSE_VERSION = 2, FS_REFUSE_CORRUPT = 3 } fs_refusal;

#define FS_HEADER_BYTES    40u
#define FS_NONCE_BYTES     32u
#define FS_PROOF_BYTES     32u
#define FS_CONTROL_MAX     192u /* the fabric's own messages are at most this long */
#define FS_CREDITS_MAX     (1u << 16)
#define FS_MAX_MESSAGE_MAX (1ull << 40)

typedef struct {
    uint16_t version;
    uint16_t type;
    uint64_t to; /* the receiver's connection id; 0 in HELLO, which comes before it is known */
    uint64_t
        seq; /* of a data message; in HELLO the sender's connection id, so that any version can be refused */
    uint64_t returned; /* see fs_flow_tell */
    uint64_t checksum; /* fs_header_checksum of what follows */
} fs_header;
void fs_header_encode(const fs_header *header, uint8_t out[FS_HEADER_BYTES]);
/* FS_CORRUPT: length, magic or type. The version is the caller's to judge. Thread: any, as all here. */
FS_MUST_USE fs_status fs_header_decode(const uint8_t *data, size_t size, fs_header *out, fs_detail *detail);

/* XXH3 of a message's bytes, seeded with where it belongs. It is no signature: it catches a buffer that its owner has given up while
 * we, stopped for a while, still read from it through shared memory, and links that flip bits. */
uint64_t fs_header_checksum(const void *data, size_t size, uint64_t to, uint64_t seq);

/* What each side says of itself. */
typedef struct {
    uint64_t id; /* its connection id, random: who does not know it cannot speak on this connection */
    uint64_t max_message;
    uint32_t credits;
    uint8_t nonce[FS_NONCE_BYTES];
    char name[FS_FABRIC_NAME_MAX + 1];
} fs_hello;
/* Returns the length, at most FS_CONTROL_MAX. */
size_t fs_hello_encode(const fs_hello *hello, uint8_t out[FS_CONTROL_MAX]);
FS_MUST_USE fs_status fs_hello_decode(const uint8_t *data, size_t size, fs_hello *out, fs_detail *detail);
size_t fs_challenge_encode(const fs_hello *hello, const uint8_t proof[FS_PROOF_BYTES],
                           uint8_t out[FS_CONTROL_MAX]);
FS_MUST_USE fs_status fs_challenge_decode(const uint8_t *data, size_t size, fs_hello *out,
                                          uint8_t proof[FS_PROOF_BYTES], fs_detail *detail);
FS_MUST_USE fs_status fs_refuse_decode(const uint8_t *data, size_t size, fs_refusal *out, fs_detail *detail);

/* 1 to FS_FABRIC_NAME_MAX printable ASCII characters without a space. */
bool fs_name_is_valid(const char *name, size_t size);

/* What proves the cluster key: BLAKE2b keyed with it, over the protocol's version, who proves, and both hellos whole (ids, nonces,
 * windows, names). A proof of one side is none of the other: it cannot be reflected. */
typedef enum { FS_ROLE_CONNECTOR = 1, FS_ROLE_LISTENER = 2 } fs_role;
void fs_proof_make(const uint8_t key[FS_FABRIC_KEY_BYTES], fs_role role, const fs_hello *connector,
                   const fs_hello *listener, uint8_t out[FS_PROOF_BYTES]);
/* In constant time. */
bool fs_proof_equal(const uint8_t a[FS_PROOF_BYTES], const uint8_t b[FS_PROOF_BYTES]);

#endif
