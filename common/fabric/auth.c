/* common/fabric/auth.c: the handshake. HELLO ->, <- CHALLENGE with the listener's proof, PROOF ->, <- READY: both have shown that they
 * know the cluster key before either reads anything else. A connection that strays from this order is over. */
#include <string.h>

#include "fabric/fabric_int.h"

static void make_proof(const fs_peer *peer, fs_role role, uint8_t out[FS_PROOF_BYTES])
{
    const fs_hello *connector = peer->connector ? &peer->mine : &peer->theirs;
    const fs_hello *listener = peer->connector ? &peer->theirs : &peer->mine;
    fs_proof_make(peer->fabric->options.key, role, connector, listener, out);
}

static bool proof_holds(const fs_peer *peer, fs_role role, const uint8_t proof[FS_PROOF_BYTES])
{
    uint8_t want[FS_PROOF_BYTES];
    make_proof(peer, role, want);
    return fs_proof_equal(want, proof);
}

void fs_auth_start(fs_peer *peer)
{
    uint8_t text[FS_CONTROL_MAX];
    fs_send_control(peer, FS_MSG_HELLO, text, fs_hello_encode(&peer->mine, text));
}

static fs_status status_of(fs_refusal why)
{
    return why == FS_REFUSE_DENIED ? FS_DENIED : why == FS_REFUSE_VERSION ? FS_UNSUPPORTED : FS_CORRUPT;
}

void fs_auth_refuse(fs_peer *peer, fs_refusal why)
{
    uint32_t reason = why;
    peer->refusing = true;
    fs_send_control(peer, FS_MSG_REFUSE, &reason, sizeof(reason));
}

static void corrupt(fs_peer *peer, const char *text)
{
    fs_auth_refuse(peer, FS_REFUSE_CORRUPT);
    fs_peer_fail(peer, FS_CORRUPT, "%s", text);
}

static void deny(fs_peer *peer)
{
    fs_auth_refuse(peer, FS_REFUSE_DENIED);
    fs_peer_fail(peer, FS_DENIED, "'%s' did not prove the cluster key", peer->theirs.name);
}

static void on_hello(fs_peer *peer, const uint8_t *data, size_t size)
{
    fs_detail detail = {0};
    if (fs_hello_decode(data, size, &peer->theirs, &detail) != FS_OK) {
        corrupt(peer, detail.text);
        return;
    }
    uint8_t proof[FS_PROOF_BYTES], text[FS_CONTROL_MAX];
    make_proof(peer, FS_ROLE_LISTENER, proof);
    peer->state = FS_PEER_WAIT_PROOF;
    fs_send_control(peer, FS_MSG_CHALLENGE, text, fs_challenge_encode(&peer->mine, proof, text));
}

static void on_challenge(fs_peer *peer, const uint8_t *data, size_t size)
{
    fs_detail detail = {0};
    uint8_t proof[FS_PROOF_BYTES];
    if (fs_challenge_decode(data, size, &peer->theirs, proof, &detail) != FS_OK) {
        corrupt(peer, detail.text);
    } else if (!proof_holds(peer, FS_ROLE_LISTENER, proof)) {
        deny(peer);
    } else {
        make_proof(peer, FS_ROLE_CONNECTOR, proof);
        peer->state = FS_PEER_WAIT_READY;
        fs_send_control(peer, FS_MSG_PROOF, proof, sizeof(proof));
    }
}

static void on_proof(fs_peer *peer, const uint8_t *data, size_t size)
{
    if (size != FS_PROOF_BYTES) {
        corrupt(peer, "proof: wrong length");
    } else if (!proof_holds(peer, FS_ROLE_CONNECTOR, data)) {
        deny(peer);
    } else {
        fs_send_control(peer, FS_MSG_READY, NULL, 0);
        if (peer->state == FS_PEER_WAIT_PROOF) fs_peer_up(peer);
    }
}

static void on_refuse(fs_peer *peer, const uint8_t *data, size_t size)
{
    fs_detail detail = {0};
    fs_refusal why = FS_REFUSE_CORRUPT;
    if (fs_refuse_decode(data, size, &why, &detail) != FS_OK)
        fs_peer_fail(peer, FS_CORRUPT, "%s", detail.text);
    else
        fs_peer_fail(peer, status_of(why), "refused by the peer: %s", fs_status_name(status_of(why)));
}

void fs_auth_receive(fs_peer *peer, const fs_header *header, const uint8_t *data, size_t size)
{
    if (header->type == FS_MSG_REFUSE) {
        on_refuse(peer, data, size);
    } else if (header->version != FS_FABRIC_VERSION) {
        fs_auth_refuse(peer, FS_REFUSE_VERSION);
        fs_peer_fail(peer, FS_UNSUPPORTED, "protocol version %u, ours is %u", header->version,
                     FS_FABRIC_VERSION);
    } else if (peer->state == FS_PEER_WAIT_HELLO && header->type == FS_MSG_HELLO) {
        on_hello(peer, data, size);
    } else if (peer->state == FS_PEER_WAIT_CHALLENGE && header->type == FS_MSG_CHALLENGE) {
        on_challenge(peer, data, size);
    } else if (peer->state == FS_PEER_WAIT_PROOF && header->type == FS_MSG_PROOF) {
        on_proof(peer, data, size);
    } else if (peer->state == FS_PEER_WAIT_READY && header->type == FS_MSG_READY && size == 0) {
        fs_peer_up(peer);
    } else {
        corrupt(peer, "a message out of the handshake's order");
    }
}
