/* Listening sockets: TCP on every address that a name has, or a Unix socket. Main thread; blocks
 * while a name is looked up. */
#ifndef WINNOW_SERVER_HTTP_LISTEN_H
#define WINNOW_SERVER_HTTP_LISTEN_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/base/error.h"

struct listen_socket {
    int fd; /* non-blocking, listening; -1: given away */
    uint32_t port;
    bool loopback;
    char address[160]; /* "http://127.0.0.1:8080", "http://[::1]:8080" */
};

/* Listens on `port` of every address of `host` (an address, also in brackets, or a name); port 0 is
 * one free port for all of them. An address that this machine does not have, such as ::1 where IPv6
 * is off, is left out with a warning as long as another is there. `port_flag` is for the error.
 * *out is malloc'ed. False:
 * "address_in_use" or "address_error", and nothing is left open. */
bool listen_tcp(const char *host, uint32_t port, const char *port_flag, struct listen_socket **out,
                uint32_t *n, struct error *e);
/* The same for addresses that were looked up already; their ports do not matter. */
bool listen_addresses(const struct addrinfo *all, uint32_t port, const char *port_flag,
                      struct listen_socket **out, uint32_t *n, struct error *e);
/* A leftover socket file is replaced, one that another program answers on is not. The caller
 * removes the file at the end. Returns the descriptor, or -1. */
int listen_unix(const char *path, struct error *e);
/* Closes the descriptors and frees the array. */
void listen_close(struct listen_socket *sockets, uint32_t n);

#endif
