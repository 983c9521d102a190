/* tools/synth/tokenizer_text.c: tokenizer.json for a vocabulary that nobody trained. */
#include "synth/synth.h"

/* How a byte is written: printing ones as themselves, others as characters from U+0100, in order (GPT-2's bytes_to_unicode). */
static void append_byte(uint32_t byte, uint32_t *next, fs_buffer *out)
{
    bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint32_t c = prints ? byte : (*next)++;
    if (c == '"' || c == '\\') fs_buffer_append_u8(out, '\\');
    if (c < 128) {
        fs_buffer_append_u8(out, (uint8_t)c);
        return;
    }
    fs_buffer_append_u8(out, (uint8_t)(0xc0 | c >> 6));
    fs_buffer_append_u8(out, (uint8_t)(0x80 | (c & 63)));
}

void fs_synth_tokenizer_text(uint32_t vocab_size, fs_buffer *out)
{
    uint32_t next = 256;
    fs_buffer_printf(
        out,
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n"
        "    {\"id\": 0, \"content\": \"<|endoftext|>\", \"single_word\": false, \"lstrip\": false, "
        "\"rstrip\": false, \"normalized\": false, \"special\": true}\n  ],\n");
    fs_buffer_printf(
        out, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
             "false, "
             "\"trim_offsets\": true, \"use_regex\": true},\n  \"post_processor\": null,\n"
             "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
             "\"use_regex\": true},\n");
    fs_buffer_printf(
        out, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
             "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
             "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
             "    \"vocab\": {\n      \"<|endoftext|>\": 0");
    for (uint32_t b = 0; b < 256; b++) {
        fs_buffer_printf(out, ",\n      \"");
        append_byte(b, &next, out);
        fs_buffer_printf(out, "\": %u", b + 1);
    }
    for (uint32_t id = 257; id < vocab_size; id++)
        fs_buffer_printf(out, ",\n      \"\u0120t%u\": %u", id, id);
    fs_buffer_printf(out, "\n    },\n    \"merges\": []\n  }\n}\n");
}
