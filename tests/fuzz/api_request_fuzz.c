/* tests/fuzz/api_request_fuzz.c: any bytes as a GenerateRequest: checked or refused, never worse. */
#include "api/request.h"
#include "rpc/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const fs_model_config config = {.vocab_size = 4096,
                                           .max_positions = 256,
                                           .default_do_sample = true,
                                           .default_temperature = 1,
                                           .default_top_p = 1};
    const fs_api_model model = {.name = "demo", .config = &config, .context = 256, .max_prompt_bytes = 1024};
    const ProtobufCMessageDescriptor *type = &foresight__v1__generate_request__descriptor;
    fs_detail detail;
    if (fs_request_check_bytes(type, data, size, &detail) != FS_OK) return 0;
    ProtobufCMessage *message = fs_message_unpack(type, data, size, &detail);
    if (!message) return 0;
    fs_arena arena = {0};
    fs_request request;
    uint32_t max_tokens;
    if (fs_request_check((const Foresight__V1__GenerateRequest *)message, &model, &arena, &request,
                         &detail) == FS_OK) {
        FS_ASSERT(request.text || (request.prompt_tokens > 0 && request.prompt_tokens < 256));
        fs_status st = fs_request_max_tokens(&request, request.text ? 5 : request.prompt_tokens, &model,
                                             &max_tokens, &detail);
        if (st == FS_OK) FS_ASSERT(max_tokens >= 1 && max_tokens < 256);
    }
    fs_arena_fini(&arena);
    fs_message_free(message);
    return 0;
}
