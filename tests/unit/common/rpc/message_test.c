/* Messages in and out, and what proto3 asks of their strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "foresight/v1/control.pb-c.h"
#include "foresight/v1/inference.pb-c.h"
#include "rpc/message.h"

static void packed_message_comes_back_whole(void **state)
{
    Foresight__V1__GenerateRequest request = FORESIGHT__V1__GENERATE_REQUEST__INIT;
    char *stop[] = {"one", "zw\xc3\xb6lf", ""};
    request.prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TEXT;
    request.text = "Once upon a time \xf0\x9f\x90\x89";
    request.stop = stop;
    request.n_stop = 3;
    uint8_t *data;
    size_t size;
    assert_int_equal(fs_message_pack(&request.base, &data, &size), FS_OK);
    fs_detail detail = {0};
    Foresight__V1__GenerateRequest *back = (void *)fs_message_unpack(
        &foresight__v1__generate_request__descriptor, data, size, &detail);
    assert_non_null(back);
    assert_string_equal(back->text, request.text);
    assert_int_equal(back->n_stop, 3);
    assert_string_equal(back->stop[1], "zw\xc3\xb6lf");
    fs_message_free(&back->base);
    free(data);
    fs_message_free(NULL);
}

static void empty_bytes_are_a_message(void **state)
{
    ProtobufCMessage *m = fs_message_unpack(&foresight__v1__generate_request__descriptor, (const uint8_t *)"",
                                            0, NULL);
    assert_non_null(m);
    fs_message_free(m);
}

static void every_cut_is_refused_or_a_message(void **state)
{
    Foresight__V1__RegisterRequest r = FORESIGHT__V1__REGISTER_REQUEST__INIT;
    r.name = "expert-1";
    r.address = "127.0.0.1:1";
    r.instance = 77;
    uint8_t *data;
    size_t size;
    assert_int_equal(fs_message_pack(&r.base, &data, &size), FS_OK);
    uint32_t refused = 0;
    for (size_t cut = 0; cut < size; cut++) {
        fs_detail detail = {0};
        ProtobufCMessage *m = fs_message_unpack(&foresight__v1__register_request__descriptor, data, cut,
                                                &detail);
        refused += m == NULL;
        assert_int_equal(m == NULL, detail.text[0] != 0);
        fs_message_free(m);
    }
    assert_true(refused > size / 2);
    free(data);
}

/* In a plain field, a oneof, a repeated field and a message within. */
static void invalid_utf8_is_refused_wherever_it_stands(void **state)
{
    static const char *const bad[] = {"\xc3\x28",         "\x80",         "\xc0\xaf",
                                      "\xe2\x82",         "\xed\xa0\x80", "\xf5\x80\x80\x80",
                                      "\xf4\x90\x80\x80", "\xe0\x80\x80", "ok\xff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *stop[] = {"fine", (char *)bad[i]};
        Foresight__V1__GenerateRequest request[3] = {FORESIGHT__V1__GENERATE_REQUEST__INIT,
                                                     FORESIGHT__V1__GENERATE_REQUEST__INIT,
                                                     FORESIGHT__V1__GENERATE_REQUEST__INIT};
        request[0].model = (char *)bad[i];
        request[1].prompt_case = FORESIGHT__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request[1].text = (char *)bad[i];
        request[2].stop = stop;
        request[2].n_stop = 2;
        const char *const field[] = {"model", "text", "stop"};
        for (int k = 0; k < 3; k++) {
            uint8_t *data;
            size_t size;
            fs_detail detail = {0};
            assert_int_equal(fs_message_pack(&request[k].base, &data, &size), FS_OK);
            assert_null(fs_message_unpack(&foresight__v1__generate_request__descriptor, data, size, &detail));
            if (!strstr(detail.text, field[k]) || !strstr(detail.text, "UTF-8")) fail_msg("%s", detail.text);
            free(data);
        }
    }
    Foresight__V1__Placement p = FORESIGHT__V1__PLACEMENT__INIT;
    Foresight__V1__Placement__Node node = FORESIGHT__V1__PLACEMENT__NODE__INIT, *nodes[] = {&node};
    node.rack = "\xff";
    p.nodes = nodes;
    p.n_nodes = 1;
    uint8_t *data;
    size_t size;
    assert_int_equal(fs_message_pack(&p.base, &data, &size), FS_OK);
    assert_null(fs_message_unpack(&foresight__v1__placement__descriptor, data, size, NULL));
    free(data);
}

static void valid_utf8_of_every_length_is_taken(void **state)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        Foresight__V1__TokenizeRequest r = FORESIGHT__V1__TOKENIZE_REQUEST__INIT;
        r.text = (char *)good[i];
        uint8_t *data;
        size_t size;
        assert_int_equal(fs_message_pack(&r.base, &data, &size), FS_OK);
        ProtobufCMessage *m = fs_message_unpack(&foresight__v1__tokenize_request__descriptor, data, size,
                                                NULL);
        assert_non_null(m);
        fs_message_free(m);
        free(data);
    }
}

static void codes_have_names_and_statuses_have_codes(void **state)
{
    assert_string_equal(fs_rpc_code_name(FS_RPC_OK), "OK");
    assert_string_equal(fs_rpc_code_name(FS_RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(fs_rpc_code_name(FS_RPC_RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
    assert_string_equal(fs_rpc_code_name((fs_rpc_code)99), "UNKNOWN");
    assert_int_equal(fs_rpc_code_of(FS_EXHAUSTED), FS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(fs_rpc_code_of(FS_INVALID), FS_RPC_INVALID_ARGUMENT);
    for (int i = 1; i < FS_NUM_STATUS; i++) assert_int_not_equal(fs_rpc_code_of((fs_status)i), FS_RPC_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_message_comes_back_whole),
        cmocka_unit_test(empty_bytes_are_a_message),
        cmocka_unit_test(every_cut_is_refused_or_a_message),
        cmocka_unit_test(invalid_utf8_is_refused_wherever_it_stands),
        cmocka_unit_test(valid_utf8_of_every_length_is_taken),
        cmocka_unit_test(codes_have_names_and_statuses_have_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
