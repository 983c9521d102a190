/* common/rpc/message.h: protobuf-c messages in and out of rpc calls. */
#ifndef FS_RPC_MESSAGE_H
#define FS_RPC_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include "rpc/rpc.h"

/* Packs and sends; as fs_rpc_call_send. */
FS_MUST_USE fs_status fs_rpc_send_message(fs_rpc_call *call, const ProtobufCMessage *message);
/* Packs into a heap block, the caller's. */
FS_MUST_USE fs_status fs_message_pack(const ProtobufCMessage *message, uint8_t **out, size_t *size);
/* Unpacks; NULL: not a message of this type, or a string in it is not UTF-8 (proto3 requires it). Freed with fs_message_free. */
ProtobufCMessage *fs_message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size, fs_detail *detail);
void fs_message_free(ProtobufCMessage *message);

#endif
