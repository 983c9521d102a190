/* Bytes from a peer as each of the messages that processes take: what unpacks, packs again; placements are checked. Input: a byte that chooses
 * the type, the message. */
#include <stdlib.h>

#include "foresight/v1/control.pb-c.h"
#include "foresight/v1/inference.pb-c.h"
#include "rpc/member_int.h"
#include "rpc/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &foresight__v1__placement__descriptor,         &foresight__v1__register_request__descriptor,
        &foresight__v1__heartbeat_request__descriptor, &foresight__v1__drain_request__descriptor,
        &foresight__v1__cluster_status__descriptor,    &foresight__v1__generate_request__descriptor,
        &foresight__v1__generate_response__descriptor, &foresight__v1__tokenize_request__descriptor,
    };
    if (size == 0) return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof(types) / sizeof(types[0]))];
    fs_detail detail;
    ProtobufCMessage *m = fs_message_unpack(type, data + 1, size - 1, &detail);
    if (!m) return 0;
    uint8_t *packed;
    size_t packed_size;
    if (type == types[0] && fs_placement_check((Foresight__V1__Placement *)m, &detail) != FS_OK)
        detail.text[0] = 0;
    if (fs_message_pack(m, &packed, &packed_size) == FS_OK) free(packed);
    fs_message_free(m);
    return 0;
}
