/* See tls.h. */
#include "server/http/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/base/clock.h"
#include "config/base/file.h"
#include "config/base/log.h"

enum { MAX_CHAIN = 16, MAX_FILE_BYTES = 1 << 20, KEEP_SECONDS = 600 };

/* A pair that was replaced lives on for handshakes that have begun with it. */
struct pair {
    gnutls_pcert_st chain[MAX_CHAIN];
    unsigned n_chain;
    gnutls_privkey_t key;
    double replaced; /* clock_seconds */
    struct pair *older;
};

static struct pair *current;

static void pair_free(struct pair *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->n_chain; i++)
        gnutls_pcert_deinit(&p->chain[i]);
    if (p->key)
        gnutls_privkey_deinit(p->key);
    free(p);
}

static char *read_pem(const char *path, const char *flag, size_t *length, struct error *e)
{
    char what[600];
    snprintf(what, sizeof what, "%s: the file %.500s", flag, path);
    struct file_wanted w = {
        .path = path, .what = what, .where = flag, .code = "file_error", .most = MAX_FILE_BYTES};
    return file_read(&w, length, e);
}

/* GnuTLS compares the key with the certificate only where it stores both. */
static bool belong_together(const gnutls_datum_t *cert, const gnutls_datum_t *key,
                            const char *cert_path, const char *key_path, struct error *e)
{
    gnutls_certificate_credentials_t both;
    int failure = gnutls_certificate_allocate_credentials(&both);
    if (failure < 0)
        return error_set_memory(e, "a certificate", cert->size);
    failure = gnutls_certificate_set_x509_key_mem(both, cert, key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(both);
    return failure >= 0 ||
           error_set(e, "invalid_value", "--tls-cert",
                     "--tls-cert %.200s and --tls-key %.200s are no certificate and key in PEM: %s",
                     cert_path, key_path, gnutls_strerror(failure));
}

static void warn_when_expired(const gnutls_datum_t *cert, const char *path)
{
    gnutls_x509_crt_t first;
    if (gnutls_x509_crt_init(&first) < 0)
        return;
    if (gnutls_x509_crt_import(first, cert, GNUTLS_X509_FMT_PEM) >= 0 &&
        gnutls_x509_crt_get_expiration_time(first) < time(NULL))
        log_line(LOG_WARNING, "the certificate %s has expired: clients will refuse it", path);
    gnutls_x509_crt_deinit(first);
}

static bool pair_fill(struct pair *p, const gnutls_datum_t *cert, const gnutls_datum_t *key,
                      struct error *e)
{
    unsigned n = MAX_CHAIN;
    int failure = gnutls_pcert_list_import_x509_raw(p->chain, &n, cert, GNUTLS_X509_FMT_PEM, 0);
    if (failure >= 0)
        p->n_chain = n;
    if (failure >= 0)
        failure = gnutls_privkey_init(&p->key);
    if (failure >= 0)
        failure = gnutls_privkey_import_x509_raw(p->key, key, GNUTLS_X509_FMT_PEM, NULL, 0);
    return failure >= 0 ||
           error_set(e, "invalid_value", "--tls-cert",
                     "--tls-cert and --tls-key cannot be used: %s", gnutls_strerror(failure));
}

static void use(struct pair *p)
{
    double now = clock_seconds();
    p->older = current;
    if (current)
        current->replaced = now;
    current = p;
    for (struct pair **at = &p->older; *at;) {
        struct pair *old = *at;
        if (now - old->replaced < KEEP_SECONDS) {
            at = &old->older;
            continue;
        }
        *at = old->older;
        pair_free(old);
    }
}

bool tls_load(const char *cert_path, const char *key_path, struct error *e)
{
    size_t n_cert = 0, n_key = 0;
    char *cert = read_pem(cert_path, "--tls-cert", &n_cert, e);
    char *key = cert ? read_pem(key_path, "--tls-key", &n_key, e) : NULL;
    struct pair *p = key ? calloc(1, sizeof *p) : NULL;
    gnutls_datum_t cert_text = {(unsigned char *)cert, (unsigned)n_cert},
                   key_text = {(unsigned char *)key, (unsigned)n_key};
    if (key && !p)
        error_set_memory(e, "a certificate", sizeof *p);
    bool ok = p && belong_together(&cert_text, &key_text, cert_path, key_path, e) &&
              pair_fill(p, &cert_text, &key_text, e);
    if (ok) {
        warn_when_expired(&cert_text, cert_path);
        use(p);
    } else {
        pair_free(p);
    }
    free(cert);
    if (key)
        gnutls_memset(key, 0, n_key);
    free(key);
    return ok;
}

void tls_clear(void)
{
    while (current) {
        struct pair *p = current;
        current = p->older;
        pair_free(p);
    }
}

int tls_choose(gnutls_session_t session, const gnutls_datum_t *issuers, int n_issuers,
               const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **chain,
               unsigned *n_chain, gnutls_privkey_t *key)
{
    (void)session;
    (void)issuers;
    (void)n_issuers;
    (void)algorithms;
    (void)n_algorithms;
    if (!current)
        return -1;
    *chain = current->chain;
    *n_chain = current->n_chain;
    *key = current->key;
    return 0;
}
