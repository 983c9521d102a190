/* tests/fuzz/fabric_header_fuzz.c: the header and the handshake's messages from a peer that nobody knows yet. What is accepted
 * encodes to the same bytes: there is one way to say a thing. */
#include <stdlib.h>
#include <string.h>

#include "fabric/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1), text[FS_CONTROL_MAX], proof[FS_PROOF_BYTES];
    if (size) memcpy(copy, data, size);
    fs_detail detail = {0};
    fs_header header;
    fs_hello hello;
    fs_refusal why;
    if (fs_header_decode(copy, size, &header, &detail) == FS_OK) {
        fs_header_encode(&header, text);
        FS_ASSERT(memcmp(text, copy, size) == 0);
    }
    if (fs_hello_decode(copy, size, &hello, &detail) == FS_OK)
        FS_ASSERT(fs_hello_encode(&hello, text) == size && memcmp(text, copy, size) == 0);
    if (fs_challenge_decode(copy, size, &hello, proof, &detail) == FS_OK)
        FS_ASSERT(fs_challenge_encode(&hello, proof, text) == size && memcmp(text, copy, size) == 0);
    if (fs_refuse_decode(copy, size, &why, &detail) == FS_OK) FS_ASSERT(why >= FS_REFUSE_DENIED);
    free(copy);
    return 0;
}
