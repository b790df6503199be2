/* Listening sockets: TCP on every address of a name, or a Unix socket. Main thread; blocks while a name
 * is looked up. */
#ifndef WINNOW_SERVER_HTTP_LISTEN_H
#define WINNOW_SERVER_HTTP_LISTEN_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/base/error.h"

struct listen_socket {
    int fd; /* non-blocking; -1: it belongs to a daemon */
    uint32_t port;
    bool loopback;
    char address[160]; /* "http://127.0.0.1:8080", "http://[::1]:8080" */
};

/* Listens on `port` of every address of `host`, which is an address, also in brackets, or a name. Port
 * 0 chooses one free port for all of them. An address that this machine does not have, such as ::1
 * without IPv6, is left out with a warning if there is another one. `port_flag` is for the error. The
 * caller frees *out. False: "address_in_use" or "address_error", and nothing is open. */
bool listen_tcp(const char *host, uint32_t port, const char *port_flag, struct listen_socket **out,
                uint32_t *n, struct error *e);
/* The same for addresses that have been looked up. Their ports are ignored. */
bool listen_addresses(const struct addrinfo *all, uint32_t port, const char *port_flag,
                      struct listen_socket **out, uint32_t *n, struct error *e);
/* Listens on a Unix socket. Replaces a leftover socket file, but not one that another program uses. The
 * caller removes the file at the end. Returns the descriptor, or -1. */
int listen_unix(const char *path, struct error *e);
/* Closes the descriptors and frees the array. */
void listen_close(struct listen_socket *sockets, uint32_t n);

#endif
