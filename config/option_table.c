/* The rows of options.h: names as llama-server and vLLM have them where they have them. */
#include <string.h>

#include "config/base/nearest.h"
#include "config/options.h"

#define AT(field) offsetof(struct config, field)

const struct option_row option_rows[] = {
    {"Model", "model", "-m --model-path", OPTION_TEXT, AT(model), 0, 0, NULL, "FILE",
     "the GGUF file (also as a plain argument)"},
    {"Model", "alias", "-a --served-model-name", OPTION_TEXT, AT(alias), 0, 0, NULL, "NAME",
     "name in /v1/models (default: from the file)"},
    {"Model", "device", "", OPTION_CHOICE, AT(device), 0, 0, "auto", "auto|cpu|cuda",
     "where to compute; auto = a GPU where one can be used"},
    {"Model", "gpu-memory-utilization", "", OPTION_SHARE, AT(gpu_memory_share), 0, 0, "0.9",
     "SHARE", "share of the GPU's memory that may be used"},
    {"Model", "isa", "", OPTION_CHOICE, AT(isa), 0, 0, NULL, "plain|avx2|avx512",
     "instruction set (default: the best of this machine)"},
    {"Model", "threads", "-t", OPTION_NUMBER, AT(threads), 0, 1024, "0", "N",
     "compute threads; 0 = physical cores"},
    {"Model", "ctx-size", "-c --max-model-len", OPTION_NUMBER, AT(ctx_size), 0, 1u << 30, "0", "N",
     "context in tokens; 0 = what the model was trained for"},
    {"Model", "chat-template", "", OPTION_TEXT, AT(chat_template), 0, 0, NULL, "FILE|NAME",
     "Jinja file, or chatml, llama2, llama3, mistral, gemma, zephyr"},
    {"Model", "sampling-defaults", "", OPTION_CHOICE, AT(sampling_defaults), 0, 0, "openai",
     "openai|model", "sampling values when a request has none"},
    {"Model", "strict-model", "", OPTION_SWITCH, AT(strict_model), 0, 0, NULL, NULL,
     "refuse requests for another model's name"},
    {"Model", "list-policy-models", "", OPTION_SWITCH, AT(list_policy_models), 0, 0, NULL, NULL,
     "let /v1/models list NAME@POLICY too"},

    {"Cache", "kv-memory", "", OPTION_SIZE_OR_SHARE, AT(kv_memory_bytes), 1 << 16, 1ull << 50, NULL,
     "SIZE|SHARE",
     "memory for the KV cache: 4G, or 0.5 of what is free (default: four full contexts, at most "
     "half of it)"},
    {"Cache", "kv-storage", "--kv-cache-dtype", OPTION_CHOICE, AT(kv_storage), 0, 0, "f16",
     "f16|bf16|q8|q4", "number format of cached keys and values"},
    {"Cache", "kv-policy", "", OPTION_TEXT, AT(kv_policy), 0, 0, "full", "NAME|JSON",
     "cache policy of requests that name none"},
    {"Cache", "kv-policy-max-budget", "", OPTION_NUMBER, AT(kv_policy_max_budget), 0, 1u << 24, "0",
     "N", "largest budget a request may ask for; 0 = any"},
    {"Cache", "kv-policy-allow", "", OPTION_LIST, AT(kv_policy_allow), 0, 0, NULL, "A,B",
     "policies that requests may name (default: all)"},
    {"Cache", "kv-policy-lock", "", OPTION_SWITCH, AT(kv_policy_lock), 0, 0, NULL, NULL,
     "refuse requests that name a policy"},
    {"Cache", "head-profile", "", OPTION_TEXT, AT(head_profile), 0, 0, NULL, "FILE",
     "which heads look things up, for razor, duo and compresskv: made by `winnow calibrate`, or "
     "DuoAttention's"},
    {"Cache", "no-prefix-cache", "", OPTION_UNSWITCH, AT(prefix_cache), 0, 0, NULL, NULL,
     "compute every prompt anew, also where one began like an earlier one"},
    {"Cache", "prefix-scope", "", OPTION_CHOICE, AT(prefix_scope), 0, 0, "key", "key|server",
     "who shares computed prompts: callers of one API key, or everybody"},
    {"Cache", "session-ttl", "", OPTION_SECONDS, AT(session_ttl_ms), 0, 0, "600", "SECONDS",
     "how long the cache of a session_id waits for its next turn; 0 = none is kept"},
    {"Cache", "audit", "", OPTION_SWITCH, AT(audit), 0, 0, NULL, NULL,
     "check the cache's invariants after every step (slow)"},

    {"Scheduling", "max-num-seqs", "-np --parallel", OPTION_NUMBER, AT(max_num_seqs), 1, 4096, "64",
     "N", "sequences computed at once"},
    {"Scheduling", "max-batched-tokens", "--max-num-batched-tokens", OPTION_NUMBER,
     AT(max_batched_tokens), 0, 65536, "0", "N",
     "tokens in a step, prompts and answers together; 0 = 256, on a GPU 2048"},
    {"Scheduling", "max-queue", "", OPTION_NUMBER, AT(max_queue), 1, 1000000, "256", "N",
     "requests that may wait; beyond: 429"},
    {"Scheduling", "max-generate", "", OPTION_NUMBER, AT(max_generate), 1, 1u << 30, "16384", "N",
     "answer length when neither request nor context bounds it"},
    {"Scheduling", "queue-timeout", "", OPTION_SECONDS, AT(queue_timeout_ms), 0, 0, "0", "SECONDS",
     "longest wait in the queue; 0 = any"},
    {"Scheduling", "request-timeout", "", OPTION_SECONDS, AT(request_timeout_ms), 0, 0, "0",
     "SECONDS", "longest whole request; 0 = any"},
    {"Scheduling", "max-per-key", "", OPTION_NUMBER, AT(max_per_key), 0, 1000000, "0", "N",
     "requests at once for one API key; 0 = any"},

    {"Network", "host", "", OPTION_TEXT, AT(host), 0, 0, "127.0.0.1", "ADDRESS",
     "address, name, or unix:/path"},
    {"Network", "port", "-p", OPTION_NUMBER, AT(port), 0, 65535, "8080", "N",
     "port; 0 = any free one"},
    {"Network", "api-prefix", "", OPTION_TEXT, AT(api_prefix), 0, 0, "", "/PATH",
     "serve everything below this path"},
    {"Network", "cors-origins", "--cors", OPTION_LIST, AT(cors_origins), 0, 0, NULL, "ORIGIN,...",
     "web origins that may call; * = all"},
    {"Network", "allowed-hosts", "", OPTION_LIST, AT(allowed_hosts), 0, 0, NULL, "NAME,...",
     "Host values accepted beside localhost when bound to loopback"},
    {"Network", "max-body", "", OPTION_SIZE, AT(max_body_bytes), 1024, 1ull << 31, "16M", "SIZE",
     "largest request body"},
    {"Network", "max-connections", "", OPTION_NUMBER, AT(max_connections), 1, 100000, "1024", "N",
     "open connections"},
    {"Network", "http-timeout", "", OPTION_SECONDS, AT(http_timeout_ms), 0, 0, "60", "SECONDS",
     "longest wait for a request's bytes, or for a reader that does not read"},
    {"Network", "sse-ping-interval", "--sse-keep-alive-interval", OPTION_SECONDS,
     AT(sse_ping_interval_ms), 0, 0, "15", "SECONDS", "comment line on silent streams; 0 = none"},
    {"Network", "shutdown-timeout", "", OPTION_SECONDS, AT(shutdown_timeout_ms), 0, 0, "30",
     "SECONDS", "time for running requests after SIGTERM"},

    {"Keys", "api-key", "", OPTION_KEYS, AT(api_keys), 0, 0, NULL, "KEY,...",
     "keys that clients must show (repeatable)"},
    {"Keys", "api-key-file", "", OPTION_KEY_FILE, AT(api_keys), 0, 0, NULL, "FILE",
     "keys, one a line, also as name:key"},
    {"Keys", "admin-api-key", "", OPTION_TEXT, AT(admin_api_key), 0, 0, NULL, "KEY",
     "sees other callers' cache detail"},
    {"Keys", "metrics-require-key", "", OPTION_SWITCH, AT(metrics_require_key), 0, 0, NULL, NULL,
     "ask for a key on /metrics too"},

    {"Observing", "metrics-compat", "", OPTION_COMPAT, AT(metrics_compat_vllm), 0, 0, NULL,
     "vllm|vllm-legacy", "also export metrics under vLLM's names"},
    {"Observing", "metrics-port", "", OPTION_NUMBER, AT(metrics_port), 0, 65535, "0", "N",
     "serve /metrics on a port of its own too; 0 = no"},
    {"Observing", "log-format", "", OPTION_LOG_FORMAT, AT(log_format), 0, 0, "text", "text|json",
     "format of log lines on stderr"},
    {"Observing", "log-level", "", OPTION_LOG_LEVEL, AT(log_level), 0, 0, "info",
     "debug|info|warning|error", "least level that is logged"},
    {"Observing", "config", "", OPTION_CONFIG_FILE, 0, 0, 0, NULL, "FILE",
     "JSON object of these settings: {\"port\": 8081}"},

    {NULL, "metrics", "", OPTION_IGNORED, 0, 0, 0, NULL, NULL, "metrics are always on"},
    {NULL, "n-gpu-layers", "-ngl --gpu-layers", OPTION_WARNED, 0, 0, 0, NULL, "N",
     "ignored: the whole model runs on one device"},
    {NULL, "tls-cert", "--ssl-cert-file --ssl-certfile", OPTION_REFUSED, 0, 0, 0, NULL, "FILE",
     "this version does not speak TLS; put a proxy such as nginx or HAProxy in front"},
    {NULL, "tls-key", "--ssl-key-file --ssl-keyfile", OPTION_REFUSED, 0, 0, 0, NULL, "FILE",
     "this version does not speak TLS; put a proxy such as nginx or HAProxy in front"},
    {NULL, "timeout", "-to", OPTION_REFUSED, 0, 0, 0, NULL, "SECONDS",
     "write --http-timeout (socket) or --request-timeout (whole request)"},
};
const unsigned n_option_rows = sizeof option_rows / sizeof *option_rows;

static bool alias_matches(const char *aliases, const char *flag)
{
    size_t length = strlen(flag);
    for (const char *a = aliases; *a;) {
        size_t n = strcspn(a, " ");
        if (n == length && !memcmp(a, flag, n))
            return true;
        a += n;
        a += strspn(a, " ");
    }
    return false;
}

const struct option_row *option_find(const char *flag)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        if (!strncmp(flag, "--", 2) && !strcmp(flag + 2, option_rows[i].name))
            return &option_rows[i];
        if (alias_matches(option_rows[i].aliases, flag))
            return &option_rows[i];
    }
    return NULL;
}

static const char *row_name(uint32_t i)
{
    return option_rows[i].name;
}

const char *option_nearest(const char *flag)
{
    while (*flag == '-')
        flag++;
    return nearest_name(flag, row_name, n_option_rows);
}
