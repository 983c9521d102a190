/* tests/unit/common/fabric/header_test.c: the header, the handshake's messages and proofs. */
#include "node_helper.h"

#include "fabric/header.h"

static fs_hello sample(const char *name)
{
    fs_hello h = {.id = 0x1122334455667788, .max_message = 1u << 20, .credits = 64};
    for (int i = 0; i < 32; i++) h.nonce[i] = (uint8_t)(i + name[0]);
    strcpy(h.name, name);
    return h;
}

static bool same(const fs_hello *a, const fs_hello *b)
{
    return a->id == b->id && a->max_message == b->max_message && a->credits == b->credits &&
           memcmp(a->nonce, b->nonce, 32) == 0 && strcmp(a->name, b->name) == 0;
}

static void header_goes_and_comes(void **state)
{
    fs_header h = {.version = 1, .type = 300, .to = 1ull << 63, .seq = 5, .returned = 6, .checksum = 7}, got;
    uint8_t text[FS_HEADER_BYTES];
    fs_header_encode(&h, text);
    assert_memory_equal(text, "FSFB\1\0\x2c\1", 8); /* little-endian, and the same for good */
    assert_int_equal(fs_header_decode(text, sizeof(text), &got, NULL), FS_OK);
    assert_true(got.version == 1 && got.type == 300 && got.to == h.to && got.seq == 5);
    assert_true(got.returned == 6 && got.checksum == 7);
}

static void broken_headers_are_corrupt(void **state)
{
    uint8_t text[FS_HEADER_BYTES + 1] = {0};
    fs_header h = {.version = 1, .type = FS_MSG_PING}, got;
    fs_header_encode(&h, text);
    for (size_t size = 0; size <= sizeof(text); size++)
        if (size != FS_HEADER_BYTES) assert_int_equal(fs_header_decode(text, size, &got, NULL), FS_CORRUPT);
    text[0] ^= 1;
    assert_int_equal(fs_header_decode(text, FS_HEADER_BYTES, &got, NULL), FS_CORRUPT);
    for (uint16_t type = 0; type < 20; type++) {
        h.type = type;
        fs_header_encode(&h, text);
        bool known = (type >= 1 && type <= 9) || type >= 16;
        assert_int_equal(fs_header_decode(text, FS_HEADER_BYTES, &got, NULL), known ? FS_OK : FS_CORRUPT);
    }
}

static void hello_and_challenge_go_and_come(void **state)
{
    char longest[FS_FABRIC_NAME_MAX + 1];
    memset(longest, 'n', sizeof(longest) - 1);
    longest[FS_FABRIC_NAME_MAX] = 0;
    const char *names[] = {"a", "router-1", longest};
    for (int i = 0; i < 3; i++) {
        fs_hello h = sample(names[i]), got;
        uint8_t text[FS_CONTROL_MAX], proof[FS_PROOF_BYTES] = {1, 2, 3}, got_proof[FS_PROOF_BYTES];
        size_t size = fs_hello_encode(&h, text);
        assert_int_equal(fs_hello_decode(text, size, &got, NULL), FS_OK);
        assert_true(same(&h, &got));
        size = fs_challenge_encode(&h, proof, text);
        assert_int_equal(fs_challenge_decode(text, size, &got, got_proof, NULL), FS_OK);
        assert_true(same(&h, &got));
        assert_memory_equal(proof, got_proof, sizeof(proof));
    }
}

static void broken_hellos_are_corrupt(void **state)
{
    fs_hello h = sample("router-1"), got;
    uint8_t text[FS_CONTROL_MAX + 8] = {0}, broken[FS_CONTROL_MAX + 8], proof[FS_PROOF_BYTES];
    size_t size = fs_hello_encode(&h, text);
    for (size_t s = 0; s < size + 8; s++)
        if (s != size) assert_int_equal(fs_hello_decode(text, s, &got, NULL), FS_CORRUPT);
    for (size_t s = 0; s < 32; s++)
        assert_int_equal(fs_challenge_decode(text, s, &got, proof, NULL), FS_CORRUPT);
    static const struct {
        size_t at, size;
        uint8_t value;
    } cases[] = {
        {0, 8, 0},     /* id 0 */
        {8, 8, 0},     /* max_message 0 */
        {8, 8, 0xff},  /* too much */
        {16, 4, 0},    /* credits 0 */
        {16, 4, 0xff}, /* too many */
        {20, 1, 1},    /* reserved */
        {22, 1, 0},    /* the name's length */
        {22, 2, 0xff}, /* the same */
        {56, 1, ' '},  /* the name */
        {57, 1, '\n'}, /* the same */
        {58, 1, 0},    /* the same */
        {59, 1, 0x80}, /* the same */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memcpy(broken, text, sizeof(text));
        memset(broken + cases[i].at, cases[i].value, cases[i].size);
        fs_detail detail = {0};
        assert_int_equal(fs_hello_decode(broken, size, &got, &detail), FS_CORRUPT);
        assert_memory_equal(detail.text, "hello: ", 7);
    }
}

static void refusals_are_checked(void **state)
{
    fs_refusal why;
    assert_int_equal(fs_refuse_decode((const uint8_t *)"\2\0\0\0", 4, &why, NULL), FS_OK);
    assert_int_equal(why, FS_REFUSE_VERSION);
    assert_int_equal(fs_refuse_decode((const uint8_t *)"\0\0\0\0", 4, &why, NULL), FS_CORRUPT);
    assert_int_equal(fs_refuse_decode((const uint8_t *)"\4\0\0\0", 4, &why, NULL), FS_CORRUPT);
    assert_int_equal(fs_refuse_decode((const uint8_t *)"\1\0\0", 3, &why, NULL), FS_CORRUPT);
    assert_int_equal(fs_refuse_decode((const uint8_t *)"\1\0\0\0\0", 5, &why, NULL), FS_CORRUPT);
}

/* Whatever differs, the proof differs: key, role, either name, nonce, id, window. */
static void proofs_cover_everything(void **state)
{
    uint8_t key[32] = {9}, want[FS_PROOF_BYTES], got[FS_PROOF_BYTES];
    fs_hello a = sample("a"), b = sample("b"), c;
    fs_proof_make(key, FS_ROLE_CONNECTOR, &a, &b, want);
    fs_proof_make(key, FS_ROLE_CONNECTOR, &a, &b, got);
    assert_true(fs_proof_equal(want, got));
    fs_proof_make(key, FS_ROLE_LISTENER, &a, &b, got);
    assert_false(fs_proof_equal(want, got));
    fs_proof_make(key, FS_ROLE_CONNECTOR, &b, &a, got);
    assert_false(fs_proof_equal(want, got));
    for (int what = 0; what < 5; what++)
        for (int side = 0; side < 2; side++) {
            c = side ? b : a;
            if (what == 0) c.id++;
            if (what == 1) c.max_message++;
            if (what == 2) c.credits++;
            if (what == 3) c.nonce[31] ^= 0x80;
            if (what == 4) c.name[0]++;
            fs_proof_make(key, FS_ROLE_CONNECTOR, side ? &a : &c, side ? &c : &b, got);
            assert_false(fs_proof_equal(want, got));
        }
    key[31] ^= 1;
    fs_proof_make(key, FS_ROLE_CONNECTOR, &a, &b, got);
    assert_false(fs_proof_equal(want, got));
}

static void the_checksum_knows_where_a_message_belongs(void **state)
{
    uint64_t sum = fs_header_checksum("abcd", 4, 10, 20);
    assert_int_equal(fs_header_checksum("abcd", 4, 10, 20), sum);
    assert_int_not_equal(fs_header_checksum("abce", 4, 10, 20), sum);
    assert_int_not_equal(fs_header_checksum("abcd", 4, 10, 21), sum);
    assert_int_not_equal(fs_header_checksum("abcd", 4, 11, 20), sum);
    assert_int_not_equal(fs_header_checksum("abc", 3, 10, 20), sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_goes_and_comes),
        cmocka_unit_test(broken_headers_are_corrupt),
        cmocka_unit_test(hello_and_challenge_go_and_come),
        cmocka_unit_test(broken_hellos_are_corrupt),
        cmocka_unit_test(refusals_are_checked),
        cmocka_unit_test(proofs_cover_everything),
        cmocka_unit_test(the_checksum_knows_where_a_message_belongs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
