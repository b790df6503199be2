/* The rows of field.h: the fields that clients of OpenAI, vLLM and llama-server send. */
#include <math.h>

#include "server/api/field.h"

#define BOTH    .chat = true, .completion = true
#define CHAT    .chat = true
#define TEXT    .completion = true
#define ANY_MAX HUGE_VAL
#define REFUSED(n, f, h)                                                                           \
    {                                                                                              \
        .name = n, .type = FIELD_ANY, .rule = FIELD_REFUSED, BOTH, .off = f, .help = h             \
    }
#define IGNORED(n)                                                                                 \
    {                                                                                              \
        .name = n, .type = FIELD_ANY, .rule = FIELD_IGNORED, BOTH                                  \
    }
#define NEAR(n, h)                                                                                 \
    {                                                                                              \
        .name = n, .type = FIELD_ANY, .rule = FIELD_NEAR_MISS, BOTH, .help = h                     \
    }
#define SAMPLER "this sampler is not implemented"
#define GRAMMAR "constrained output is not implemented in this version"

const struct field_row field_rows[] = {
    {"model", FIELD_STRING, 0, 256, .rule = FIELD_USED, BOTH},
    {"messages", FIELD_ARRAY, 1, ANY_MAX, .rule = FIELD_USED, CHAT},
    {"prompt", FIELD_ANY, .rule = FIELD_USED, TEXT},
    {"echo", FIELD_BOOLEAN, .rule = FIELD_USED, TEXT},
    {"best_of", FIELD_INTEGER, 1, 16, .rule = FIELD_USED, TEXT},
    {"max_tokens", FIELD_INTEGER, -1, ANY_MAX, .rule = FIELD_USED, TEXT},
    {"max_tokens", FIELD_INTEGER, -1, ANY_MAX, .rule = FIELD_USED, CHAT},
    {"max_completion_tokens", FIELD_INTEGER, -1, ANY_MAX, .rule = FIELD_USED, CHAT},
    {"min_tokens", FIELD_INTEGER, 0, 2147483647, .rule = FIELD_USED, BOTH},
    {"temperature", FIELD_NUMBER, 0, 2, .rule = FIELD_USED, BOTH},
    {"top_p", FIELD_NUMBER, 0, 1, .rule = FIELD_USED, BOTH},
    {"top_k", FIELD_INTEGER, -1, 2147483647, .rule = FIELD_USED, BOTH},
    {"min_p", FIELD_NUMBER, 0, 1, .rule = FIELD_USED, BOTH},
    {"typical_p", FIELD_NUMBER, 0, 1, .rule = FIELD_USED, BOTH},
    {"presence_penalty", FIELD_NUMBER, -2, 2, .rule = FIELD_USED, BOTH},
    {"frequency_penalty", FIELD_NUMBER, -2, 2, .rule = FIELD_USED, BOTH},
    {"repetition_penalty", FIELD_NUMBER, 0, 10, .min_open = true, .rule = FIELD_USED, BOTH},
    {"repeat_penalty", FIELD_NUMBER, 0, 10, .min_open = true, .rule = FIELD_USED, BOTH},
    {"logit_bias", FIELD_OBJECT, 0, 1024, .rule = FIELD_USED, BOTH},
    {"stop", FIELD_ANY, .rule = FIELD_USED, BOTH},
    {"stop_token_ids", FIELD_ARRAY, 0, 256, .rule = FIELD_USED, BOTH},
    {"include_stop_str_in_output", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"ignore_eos", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"skip_special_tokens", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"seed", FIELD_INTEGER, -9223372036854775808.0, ANY_MAX, .rule = FIELD_USED, BOTH},
    {"n", FIELD_INTEGER, 1, 16, .rule = FIELD_USED, BOTH},
    {"logprobs", FIELD_BOOLEAN, .rule = FIELD_USED, CHAT},
    {"top_logprobs", FIELD_INTEGER, 0, 20, .rule = FIELD_USED, CHAT},
    {"logprobs", FIELD_INTEGER, 0, 20, .rule = FIELD_USED, TEXT},
    {"return_token_ids", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"stream", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"stream_options", FIELD_OBJECT, 0, ANY_MAX, .rule = FIELD_USED, BOTH},
    {"return_progress", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"sse_ping_interval", FIELD_NUMBER, 0, 3600, .rule = FIELD_USED, BOTH},
    {"timeout_ms", FIELD_INTEGER, 1, 1e12, .rule = FIELD_USED, BOTH},
    {"kv_policy", FIELD_ANY, .rule = FIELD_USED, BOTH},
    {"chat_template_kwargs", FIELD_OBJECT, 0, ANY_MAX, .rule = FIELD_USED, CHAT},
    {"reasoning_effort", FIELD_STRING, 0, 64, .rule = FIELD_USED, CHAT},
    {"verbosity", FIELD_STRING, 0, 64, .rule = FIELD_USED, CHAT},
    {"add_special_tokens", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},
    {"add_generation_prompt", FIELD_BOOLEAN, .rule = FIELD_USED, CHAT},
    {"continue_final_message", FIELD_BOOLEAN, .rule = FIELD_USED, CHAT},
    {"response_format", FIELD_OBJECT, 0, ANY_MAX, .rule = FIELD_USED, BOTH},
    {"prompt_cache_key", FIELD_STRING, 1, 256, .rule = FIELD_USED, BOTH},
    {"cache_salt", FIELD_STRING, 1, 1024, .rule = FIELD_USED, BOTH},
    {"session_id", FIELD_STRING, 1, 256, .rule = FIELD_USED, BOTH},
    {"cache_prompt", FIELD_BOOLEAN, .rule = FIELD_USED, BOTH},

    REFUSED("tools", "[]", "tools are not implemented in this version"),
    REFUSED("tool_choice", "\"none\"|\"auto\"", "tools are not implemented in this version"),
    REFUSED("functions", "[]", "use `tools`, which is not implemented in this version either"),
    REFUSED("function_call", "\"none\"|\"auto\"",
            "use `tools`, which is not implemented in this version either"),
    REFUSED("suffix", "\"\"", "the model has no fill-in tokens"),
    REFUSED("prompt_logprobs", "", "use `echo` with `logprobs` on /v1/completions"),
    REFUSED("priority", "0", "priorities are not implemented in this version"),
    REFUSED("dry_multiplier", "0|0.0", SAMPLER),
    REFUSED("xtc_probability", "0|0.0", SAMPLER),
    REFUSED("mirostat", "0", SAMPLER),
    REFUSED("mirostat_mode", "0", SAMPLER),
    REFUSED("dynatemp_range", "0|0.0", SAMPLER),
    REFUSED("top_n_sigma", "-1|-1.0|0|0.0", SAMPLER),
    REFUSED("samplers", "[]|\"\"", SAMPLER),
    REFUSED("tfs_z", "1|1.0", SAMPLER),
    REFUSED("use_beam_search", "false", SAMPLER),
    REFUSED("length_penalty", "1|1.0", SAMPLER),
    REFUSED("grammar", "\"\"", GRAMMAR),
    REFUSED("json_schema", "{}", GRAMMAR),
    REFUSED("structured_outputs", "{}", GRAMMAR),
    REFUSED("guided_json", "", GRAMMAR),
    REFUSED("guided_regex", "\"\"", GRAMMAR),
    REFUSED("guided_choice", "[]", GRAMMAR),
    REFUSED("guided_grammar", "\"\"", GRAMMAR),
    REFUSED("bad_words", "[]",
            "banned words are not implemented; `logit_bias` of -100 bans a token"),
    REFUSED("allowed_token_ids", "[]",
            "not implemented; `logit_bias` changes the weight of tokens"),
    REFUSED("modalities", "[\"text\"]", "winnow generates text only"),
    REFUSED("audio", "", "winnow generates text only"),
    REFUSED("web_search_options", "", "winnow does not search the web"),
    REFUSED("moderation", "", "winnow has no moderation model"),

    IGNORED("parallel_tool_calls"),
    IGNORED("prediction"), /* a guess that may save time; the answer is the same without it */
    IGNORED("user"),
    IGNORED("safety_identifier"),
    IGNORED("metadata"),
    IGNORED("store"),
    IGNORED("service_tier"),
    IGNORED("prompt_cache_options"),
    IGNORED("prompt_cache_retention"),

    NEAR("kvPolicy", "kv_policy"),
    NEAR("kv-policy", "kv_policy"),
    NEAR("kv_cache_policy", "kv_policy"),
};
const unsigned n_field_rows = sizeof field_rows / sizeof *field_rows;
