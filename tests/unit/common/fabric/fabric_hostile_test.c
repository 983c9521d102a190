/* tests/unit/common/fabric/fabric_hostile_test.c: a UCX client that does not keep to the protocol, before and after it proved the key; a
 * good peer beside it notices nothing. And bytes that are not UCX at all. */
#include "node_helper.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include "fabric/fabric_int.h"

typedef struct {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    bool failed;
    fs_hello mine, theirs;
    fs_header header; /* of the last message that came */
    uint8_t data[FS_CONTROL_MAX];
    size_t size;
    uint32_t received;
} hostile;

typedef struct {
    uv_loop_t loop;
    node victim, friend;
    hostile h;
} scene;

static ucs_status_t on_am(void *arg, const void *header, size_t header_size, void *data, size_t size,
                          const ucp_am_recv_param_t *param)
{
    hostile *h = arg;
    assert_int_equal(fs_header_decode(header, header_size, &h->header, NULL), FS_OK);
    assert_true(size <= sizeof(h->data));
    if (size) memcpy(h->data, data, size);
    h->size = size;
    h->received++;
    return UCS_OK;
}

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    ((hostile *)arg)->failed = true;
}

static void hostile_open(hostile *h, const char *address)
{
    *h = (hostile){0};
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    assert_int_equal(ucp_init(&params, NULL, &h->context), UCS_OK);
    ucp_worker_params_t worker_params = {0};
    assert_int_equal(ucp_worker_create(h->context, &worker_params, &h->worker), UCS_OK);
    ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                    UCP_AM_HANDLER_PARAM_FIELD_CB |
                                                    UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                      .id = FS_FABRIC_AM_ID,
                                      .cb = on_am,
                                      .arg = h};
    assert_int_equal(ucp_worker_set_am_recv_handler(h->worker, &handler), UCS_OK);
    struct sockaddr_storage at;
    socklen_t size;
    assert_int_equal(fs_address_parse(address, &at, &size, NULL), FS_OK);
    ucp_ep_params_t ep = {.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                                        UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
                          .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
                          .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                          .err_handler = {on_error, h},
                          .sockaddr = {.addr = (struct sockaddr *)&at, .addrlen = size}};
    assert_int_equal(ucp_ep_create(h->worker, &ep, &h->ep), UCS_OK);
}

static void hostile_close(hostile *h)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucs_status_ptr_t request = ucp_ep_close_nbx(h->ep, &param);
    if (UCS_PTR_IS_PTR(request)) {
        while (ucp_request_check_status(request) == UCS_INPROGRESS) ucp_worker_progress(h->worker);
        ucp_request_free(request);
    }
    ucp_worker_destroy(h->worker);
    ucp_cleanup(h->context);
}

/* UCX may hold header and data for a while: they live as long as the test. */
static void hostile_send(hostile *h, const uint8_t *header, size_t header_size, const void *data, size_t size,
                         uint32_t flags)
{
    static uint8_t headers[64][FS_HEADER_BYTES];
    static uint32_t next;
    uint8_t *copy = headers[next++ % 64];
    memcpy(copy, header, header_size);
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = flags};
    ucs_status_ptr_t request = ucp_am_send_nbx(h->ep, FS_FABRIC_AM_ID, copy, header_size, data, size, &param);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

static void hostile_say(hostile *h, fs_header header, const void *data, size_t size)
{
    uint8_t text[FS_HEADER_BYTES];
    if (header.version == 0) header.version = FS_FABRIC_VERSION;
    if (header.checksum == 0) header.checksum = fs_header_checksum(data, size, header.to, header.seq);
    fs_header_encode(&header, text);
    hostile_send(h, text, sizeof(text), data, size, header.to == 0 ? UCP_AM_SEND_FLAG_REPLY : 0);
}

static void scene_init(scene *s)
{
    memset(s, 0, sizeof(*s));
    uv_loop_init(&s->loop);
    node_init(&s->victim, "victim");
    s->victim.options.connect_ns = 4000000000;
    s->victim.options.max_message = 1u << 20;
    s->victim.options.credits = 4;
    s->victim.keep = true;
    node_init(&s->friend, "friend");
    node_start(&s->victim, &s->loop);
    node_start(&s->friend, &s->loop);
    node_listen(&s->victim, "127.0.0.1:0");
    node_connect(&s->friend, s->victim.address);
    RUN_UNTIL(&s->loop, s->victim.ups == 1 && s->friend.ups == 1);
    hostile_open(&s->h, s->victim.address);
}

#define SCENE_UNTIL(s, cond) RUN_UNTIL(&(s)->loop, (ucp_worker_progress((s)->h.worker), (cond)))

/* Only the hostile one went down, and the friend is still served. */
static void scene_fini(scene *s, fs_status why)
{
    SCENE_UNTIL(s, s->victim.downs == 1);
    assert_int_equal(s->victim.why, why);
    assert_int_equal(s->friend.downs, 0);
    uint32_t before = s->victim.messages;
    s->victim.next = 77;
    assert_int_equal(node_send(&s->friend, 77, 50000), FS_OK);
    SCENE_UNTIL(s, s->victim.messages == before + 1);
    hostile_close(&s->h);
    node_stop(&s->friend, &s->loop);
    node_stop(&s->victim, &s->loop);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&s->loop), 0);
}

static void hello(hostile *h, fs_hello *mine)
{
    *mine = (fs_hello){.id = 4711, .max_message = 1u << 30, .credits = 8, .name = "hostile"};
    static uint8_t text[FS_CONTROL_MAX];
    size_t size = fs_hello_encode(mine, text);
    hostile_say(h, (fs_header){.type = FS_MSG_HELLO, .seq = mine->id}, text, size);
}

static void prove(scene *s)
{
    hostile *h = &s->h;
    static uint8_t proof[FS_PROOF_BYTES];
    hello(h, &h->mine);
    SCENE_UNTIL(s, h->received == 1);
    assert_int_equal(h->header.type, FS_MSG_CHALLENGE);
    assert_int_equal(fs_challenge_decode(h->data, h->size, &h->theirs, proof, NULL), FS_OK);
    fs_proof_make(s->victim.options.key, FS_ROLE_CONNECTOR, &h->mine, &h->theirs, proof);
    hostile_say(h, (fs_header){.type = FS_MSG_PROOF, .to = h->theirs.id}, proof, sizeof(proof));
    SCENE_UNTIL(s, s->victim.ups == 2 && h->received == 2);
    assert_int_equal(h->header.type, FS_MSG_READY);
}

static uint8_t zeros[2u << 20];

static void short_header(scene *s)
{
    hostile_send(&s->h, zeros, 8, zeros, 8, UCP_AM_SEND_FLAG_REPLY);
}
static void wrong_magic(scene *s)
{
    hostile_send(&s->h, zeros, FS_HEADER_BYTES, zeros, 8, UCP_AM_SEND_FLAG_REPLY);
}
static void bad_hello(scene *s)
{
    hostile_say(&s->h, (fs_header){.type = FS_MSG_HELLO, .seq = 1}, zeros, 50);
}
static void huge_hello(scene *s)
{
    hostile_say(&s->h, (fs_header){.type = FS_MSG_HELLO, .seq = 1}, zeros, sizeof(zeros));
}
static void data_first(scene *s)
{
    hostile_say(&s->h, (fs_header){.type = FS_MSG_DATA}, zeros, 100);
}
static void other_version(scene *s)
{
    hostile_say(&s->h, (fs_header){.type = FS_MSG_HELLO, .version = 9, .seq = 4711}, zeros, 50);
    SCENE_UNTIL(s, s->h.received == 1); /* and it is told why */
    assert_int_equal(s->h.header.type, FS_MSG_REFUSE);
    assert_int_equal(s->h.header.to, 4711);
}
static void says_nothing(scene *s)
{
}
static void wrong_proof(scene *s)
{
    hello(&s->h, &s->h.mine);
    SCENE_UNTIL(s, s->h.received == 1);
    uint8_t proof[FS_PROOF_BYTES];
    assert_int_equal(fs_challenge_decode(s->h.data, s->h.size, &s->h.theirs, proof, NULL), FS_OK);
    /* The listener's own proof, reflected. */
    hostile_say(&s->h, (fs_header){.type = FS_MSG_PROOF, .to = s->h.theirs.id}, s->h.data, FS_PROOF_BYTES);
}
static void other_connection(scene *s) /* a guess at the id of the friend's: nothing comes of it */
{
    for (uint64_t to = 1; to < 50; to++)
        hostile_say(&s->h, (fs_header){.type = FS_MSG_REFUSE, .to = to}, zeros, 4);
    bad_hello(s);
}
static void data(scene *s, uint64_t seq, uint64_t checksum, size_t size)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = 20, .to = s->h.theirs.id, .seq = seq, .checksum = checksum}, zeros,
                size);
}
static void number_from_the_future(scene *s)
{
    data(s, 4, 0, 100);
}
static void wrong_checksum(scene *s)
{
    data(s, 0, 1, 100);
}
static void too_large(scene *s)
{
    data(s, 0, 0, (1u << 20) + 1);
}
static void number_twice(scene *s)
{
    data(s, 1, 0, 100);
    hostile_say(&s->h, (fs_header){.type = 20, .to = s->h.theirs.id, .seq = 1}, zeros, 100);
}
static void number_of_the_past(scene *s)
{
    s->victim.next = 0;
    data(s, 0, 0, 100);
    hostile_say(&s->h, (fs_header){.type = 20, .to = s->h.theirs.id, .seq = 0}, zeros, 100);
}
static void more_than_its_credits(scene *s)
{
    data(s, 0, 0, 100); /* the victim keeps all */
    for (uint64_t i = 1; i < 5; i++)
        hostile_say(&s->h, (fs_header){.type = 20, .to = s->h.theirs.id, .seq = i}, zeros, 100);
}
static void unused_credits(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_CREDIT, .to = s->h.theirs.id, .returned = 1}, NULL, 0);
}
static void hello_again(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_HELLO, .to = s->h.theirs.id}, zeros, 10);
}
static void ping_with_luggage(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_PING, .to = s->h.theirs.id}, zeros, 10);
}

static void goodbye_with_luggage(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_BYE, .to = s->h.theirs.id}, zeros, 10);
}
static void goodbye_after_more_than_its_credits(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_BYE, .to = s->h.theirs.id, .seq = 5}, NULL, 0);
}
static void goodbye_before_what_was_delivered(scene *s)
{
    s->victim.next = 0;
    data(s, 0, 0, 100);
    SCENE_UNTIL(s, s->victim.messages == 1);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_BYE, .to = s->h.theirs.id}, NULL, 0);
}
static void goodbye_without_what_it_announced(scene *s) /* and then it only stays */
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_BYE, .to = s->h.theirs.id, .seq = 1}, NULL, 0);
}
static void goodbye(scene *s)
{
    prove(s);
    hostile_say(&s->h, (fs_header){.type = FS_MSG_BYE, .to = s->h.theirs.id}, NULL, 0);
}

static void each_offence_ends_its_own_connection(void **state)
{
    static const struct {
        const char *name;
        void (*act)(scene *s);
        fs_status why;
    } cases[] = {
        {"short_header", short_header, FS_CORRUPT},
        {"wrong_magic", wrong_magic, FS_CORRUPT},
        {"bad_hello", bad_hello, FS_CORRUPT},
        {"huge_hello", huge_hello, FS_CORRUPT},
        {"data_first", data_first, FS_CORRUPT},
        {"other_version", other_version, FS_UNSUPPORTED},
        {"says_nothing", says_nothing, FS_UNAVAILABLE},
        {"wrong_proof", wrong_proof, FS_DENIED},
        {"other_connection", other_connection, FS_CORRUPT},
        {"number_from_the_future", number_from_the_future, FS_CORRUPT},
        {"wrong_checksum", wrong_checksum, FS_CORRUPT},
        {"too_large", too_large, FS_CORRUPT},
        {"number_twice", number_twice, FS_CORRUPT},
        {"number_of_the_past", number_of_the_past, FS_CORRUPT},
        {"more_than_its_credits", more_than_its_credits, FS_CORRUPT},
        {"unused_credits", unused_credits, FS_CORRUPT},
        {"hello_again", hello_again, FS_CORRUPT},
        {"ping_with_luggage", ping_with_luggage, FS_CORRUPT},
        {"goodbye_with_luggage", goodbye_with_luggage, FS_CORRUPT},
        {"goodbye_after_more_than_its_credits", goodbye_after_more_than_its_credits, FS_CORRUPT},
        {"goodbye_before_what_was_delivered", goodbye_before_what_was_delivered, FS_CORRUPT},
        {"goodbye_without_what_it_announced", goodbye_without_what_it_announced, FS_CANCELLED},
        {"goodbye", goodbye, FS_CANCELLED}, /* no offence */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        print_message("  %s\n", cases[i].name);
        scene s;
        scene_init(&s);
        cases[i].act(&s);
        scene_fini(&s, cases[i].why);
    }
}

static int tcp_connect(const char *address)
{
    struct sockaddr_storage at;
    socklen_t size;
    assert_int_equal(fs_address_parse(address, &at, &size, NULL), FS_OK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, size), 0);
    return fd;
}

static void the_listener_survives_bytes_that_are_not_ucx(void **state)
{
    scene s;
    scene_init(&s);
    int fds[8];
    for (int i = 0; i < 8; i++) {
        uint8_t text[4096];
        memset(text, i * 37, sizeof(text));
        fds[i] = tcp_connect(s.victim.address);
        if (i > 0)
            (void)!write(fds[i], i == 1 ? "GET / HTTP/1.1\r\n\r\n" : (char *)text,
                         i == 1 ? 18 : (size_t)i * 500);
        if (i % 2) close(fds[i]);
        node_run_for(&s.loop, 10000000);
    }
    for (int i = 0; i < 8; i += 2) close(fds[i]);
    scene_fini(&s, FS_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_offence_ends_its_own_connection),
        cmocka_unit_test(the_listener_survives_bytes_that_are_not_ucx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
