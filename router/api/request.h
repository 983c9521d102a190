/* router/api/request.h: what a client may ask, checked field by field before anything is begun. Without input
 * and output. */
#ifndef FS_API_REQUEST_H
#define FS_API_REQUEST_H

#include "base/arena.h"
#include "engine/sampler.h"
#include "foresight/v1/inference.pb-c.h"
#include "model/config.h"

#define FS_API_MAX_STOP_IDS 1024u
#define FS_API_MAX_FIELDS 4096u /* strings and messages of one request; a right one has at most FS_MAX_LOGIT_BIAS and some */
#define FS_API_MAX_REQUEST_ID     128u
#define FS_API_DEFAULT_MAX_TOKENS 256u

/* What requests are checked against. */
typedef struct {
    const char *name; /* of the model */
    const fs_model_config *config;
    uint32_t context; /* prompt and text together */
    uint64_t max_prompt_bytes;
} fs_api_model;

/* What was asked, with the model's defaults put in. Points into the message and the arena. */
typedef struct {
    const char *text; /* to be tokenised; NULL: prompt is given */
    const uint32_t *prompt;
    uint32_t prompt_tokens;
    uint32_t max_tokens; /* 0: unset, see fs_request_max_tokens */
    fs_sampling sampling;
    bool needs_seed; /* sampling.seed is to be drawn */
    bool want_logprob;
    uint32_t num_top;
    int32_t priority;
} fs_request;

/* A message's bytes before they are unpacked. protobuf-c's strings end at a zero byte, so that one inside would cut a prompt short
 * without a word; and it takes memory for each string and message, so that a request of tiny ones would hold up the loop.
 * Strings are looked at on the top level, and there may be FS_API_MAX_FIELDS of them, of messages and of fields that we do not know, within messages too. What is
 * malformed is left to the unpacking. FS_INVALID: the detail names the field. */
FS_MUST_USE fs_status fs_request_check_bytes(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                             size_t size, fs_detail *detail);
/* FS_OK: empty, or this model. FS_NOT_FOUND. */
FS_MUST_USE fs_status fs_request_check_model(const char *asked, const fs_api_model *model, fs_detail *detail);
/* FS_INVALID, FS_NOT_FOUND (another model), FS_NO_MEMORY; the detail begins with the field's name. */
FS_MUST_USE fs_status fs_request_check(const Foresight__V1__GenerateRequest *message,
                                       const fs_api_model *model, fs_arena *arena, fs_request *out,
                                       fs_detail *detail);
/* Once the prompt's length is known: how many tokens may be made. FS_INVALID: prompt, or prompt and
 * max_tokens, over the context. */
FS_MUST_USE fs_status fs_request_max_tokens(const fs_request *request, size_t prompt_tokens,
                                            const fs_api_model *model, uint32_t *out, fs_detail *detail);

#endif
