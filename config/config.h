/* The settings of `winnow serve` as one checked struct. It is passed down by pointer and never changes
 * after start, so any thread may read it.
 *
 * A setting comes from the flag, else the environment (WINNOW_<FLAG>), else the JSON config file,
 * else the default. option_table.c has names, aliases, types, ranges and help. Main thread. */
#ifndef WINNOW_CONFIG_CONFIG_H
#define WINNOW_CONFIG_CONFIG_H

#include <stdint.h>

#include "config/base/error.h"
#include "config/base/log.h"

struct api_key {
    char *name; /* for logs: what stands before ':' in a key file, or "key1", "key2", ... */
    char *key;
};

struct string_list {
    char **items;
    uint32_t count;
};

/* Memory in bytes or as a share of the free memory; both 0: not given. */
struct memory_size {
    uint64_t bytes;
    double share; /* 0..1 */
};

struct config {
    char *model;
    char *host; /* an address, a name, or "unix:/path" */
    uint32_t port;
    char *alias;  /* the name in /v1/models; NULL = from the model file */
    char *device; /* "auto", "cpu" or "cuda" */
    double gpu_memory_share;
    char *isa; /* "plain", "avx2" or "avx512"; NULL = the best one */
    uint32_t threads, ctx_size, max_num_seqs, max_batched_tokens, max_generate;
    struct memory_size kv_memory;
    char *kv_storage;                   /* "f16", "bf16", "q8" or "q4" */
    char *kv_policy;                    /* text for plan_parse_text; default "full" */
    uint32_t kv_policy_max_budget;      /* 0 = none */
    struct string_list kv_policy_allow; /* empty = all */
    bool kv_policy_lock;
    char *chat_template;
    char *head_profile;      /* NULL = none */
    char *sampling_defaults; /* "model" or "openai" */
    bool strict_model, list_policy_models;
    bool prefix_cache; /* default true */
    uint64_t session_ttl_ms;
    char *prefix_scope; /* "key" or "server" */

    struct api_key *api_keys;
    uint32_t n_api_keys;
    char *admin_api_key;
    bool metrics_require_key;

    char *tls_cert, *tls_key; /* PEM files; both or none */
    uint64_t max_body_bytes, max_body_memory;
    uint32_t max_queue, max_connections, max_per_key, max_request_tokens;
    uint64_t max_answer_bytes; /* of one answer that is not a stream */
    uint64_t max_work_bytes;   /* of bodies in the thread pool and before it */
    uint64_t queue_timeout_ms, request_timeout_ms, http_timeout_ms, sse_ping_interval_ms,
        shutdown_timeout_ms;                        /* 0 = off */
    struct string_list cors_origins, allowed_hosts; /* "*" is allowed in cors_origins */
    char *api_prefix;                               /* "", or "/p" without a slash at the end */
    bool metrics_compat_vllm, metrics_compat_legacy;
    uint32_t metrics_port; /* 0 = no extra port */

    enum log_format log_format;
    enum log_level log_level;
    bool no_mmap; /* copy the model file into memory instead of mapping it */
    bool audit;   /* check the cache's invariants after every step */
};

/* Fills *c from the command line (argv[0] is the subcommand), environment and config file. The caller
 * frees it with config_clear. False: *e says why and *c is cleared. *help is set when --help was
 * given; then nothing else is checked. */
bool config_parse(struct config *c, int argc, char **argv, bool *help, struct error *e);
void config_clear(struct config *c);

#endif
