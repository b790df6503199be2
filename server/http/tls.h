/* The certificate and key of --tls-cert and --tls-key, and their replacement while the server runs. Loop
 * thread. libmicrohttpd does the handshakes and asks tls_choose for the certificate of each, so
 * connections that are open keep theirs. There is one pair in the process, because that question does not
 * say whose connection it is. */
#ifndef WINNOW_SERVER_HTTP_TLS_H
#define WINNOW_SERVER_HTTP_TLS_H

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>

#include "config/base/error.h"

/* TLS 1.2 and 1.3, for MHD_OPTION_HTTPS_PRIORITIES */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

/* Reads PEM files: the chain, the server's certificate first, and its key. False: "file_error" or
 * "invalid_value", and the pair that was loaded before stays in use. */
bool tls_load(const char *cert_path, const char *key_path, struct error *e);
void tls_clear(void);

/* For MHD_OPTION_HTTPS_CERT_CALLBACK: a gnutls_certificate_retrieve_function2. */
int tls_choose(gnutls_session_t session, const gnutls_datum_t *issuers, int n_issuers,
               const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **chain,
               unsigned *n_chain, gnutls_privkey_t *key);

#endif
