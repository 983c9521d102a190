/* common/fabric/address.c: numeric socket addresses as text. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fabric/fabric_int.h"

static bool parse_port(const char *text, uint16_t *port)
{
    if (*text < '0' || *text > '9' || strlen(text) > 5) return false;
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value > 65535) return false;
    *port = (uint16_t)value;
    return true;
}

fs_status fs_address_parse(const char *text, struct sockaddr_storage *out, socklen_t *size, fs_detail *detail)
{
    bool v6 = text[0] == '[';
    const char *host = text + v6, *end = strchr(text, v6 ? ']' : ':');
    const char *port_text = end ? end + 1 + v6 : NULL;
    char buffer[INET6_ADDRSTRLEN];
    uint16_t port;
    if (!end || (v6 && end[1] != ':') || (size_t)(end - host) >= sizeof(buffer) ||
        !parse_port(port_text, &port))
        return fs_fail(detail, FS_INVALID, "address '%.100s' is not HOST:PORT", text);
    memcpy(buffer, host, (size_t)(end - host));
    buffer[end - host] = 0;
    memset(out, 0, sizeof(*out));
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    int ok = v6 ? inet_pton(AF_INET6, buffer, &in6->sin6_addr) : inet_pton(AF_INET, buffer, &in->sin_addr);
    if (ok != 1) return fs_fail(detail, FS_INVALID, "address '%.100s': the host is not numeric", text);
    out->ss_family = v6 ? AF_INET6 : AF_INET;
    if (v6)
        in6->sin6_port = htons(port);
    else
        in->sin_port = htons(port);
    *size = v6 ? sizeof(*in6) : sizeof(*in);
    return FS_OK;
}

bool fs_address_is_loopback(const struct sockaddr_storage *address)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    if (address->ss_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

void fs_address_format(const struct sockaddr_storage *address, char out[128])
{
    char host[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    if (address->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(out, 128, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(out, 128, "%s:%u", host, ntohs(in->sin_port));
    }
}
