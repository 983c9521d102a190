/* common/rpc/message.c: protobuf-c messages as bytes and back, with the checks that proto3 asks for and protobuf-c leaves out. */
#include "rpc/message.h"

#include <stdlib.h>

#include "rpc/rpc_int.h"

fs_status fs_rpc_send_message(fs_rpc_call *call, const ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    return fs_rpc_call_send_slice(call, slice);
}

fs_status fs_message_pack(const ProtobufCMessage *message, uint8_t **out, size_t *size)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(n ? n : 1);
    if (!data) return FS_NO_MEMORY;
    protobuf_c_message_pack(message, data);
    *out = data;
    *size = n;
    return FS_OK;
}

/* ---- UTF-8 ---- */

/* The length of the sequence at s (terminated), 0 if it is none: no overlong forms, no surrogates, none over U+10FFFF. */
static unsigned sequence_length(const unsigned char *s)
{
    if (s[0] < 0x80) return 1;
    unsigned n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
                 : (s[0] & 0xf0) == 0xe0       ? 3
                 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                               : 0;
    for (unsigned i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
    return n;
}

static bool is_utf8(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        unsigned n = sequence_length(s);
        if (n == 0) return false;
        s += n;
    }
    return true;
}

static bool check_message(const ProtobufCMessage *message, fs_detail *detail);

static bool check_string(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                         const char *text, fs_detail *detail)
{
    if (!text || is_utf8(text)) return true;
    (void)fs_fail(detail, FS_INVALID, "%s.%s: not valid UTF-8", message->descriptor->short_name, field->name);
    return false;
}

static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    if (!(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)) return true;
    /* Members of a oneof share their memory: only the one that is set has a meaning. */
    return *(const uint32_t *)(const void *)((const char *)message + field->quantifier_offset) == field->id;
}

static bool check_field(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                        fs_detail *detail)
{
    const void *member = (const char *)message + field->offset;
    bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED, text = field->type == PROTOBUF_C_TYPE_STRING;
    if (!text && field->type != PROTOBUF_C_TYPE_MESSAGE) return true;
    if (!is_present(message, field)) return true;
    size_t count = 1;
    void *const *values = member;
    if (repeated) {
        count = *(const size_t *)(const void *)((const char *)message + field->quantifier_offset);
        values = *(void *const *const *)member;
    }
    for (size_t i = 0; i < count; i++) {
        if (text ? !check_string(message, field, values[i], detail)
                 : values[i] && !check_message(values[i], detail))
            return false;
    }
    return true;
}

/* As deep as the message type nests; none of ours contains itself. */
static bool check_message(const ProtobufCMessage *message, fs_detail *detail)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++)
        if (!check_field(message, &message->descriptor->fields[i], detail)) return false;
    return true;
}

ProtobufCMessage *fs_message_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size,
                                    fs_detail *detail)
{
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, size, data);
    if (!message) {
        (void)fs_fail(detail, FS_INVALID, "not a %s message (%zu bytes)", type->short_name, size);
        return NULL;
    }
    if (check_message(message, detail)) return message;
    fs_message_free(message);
    return NULL;
}

void fs_message_free(ProtobufCMessage *message)
{
    if (message) protobuf_c_message_free_unpacked(message, NULL);
}
