/* The JSON schema of kv_policy, as clients fetch it. */
#include "cache/policy/plan.h"

json_t *plan_schema(void)
{
    static const char schema[] =
        "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"kv_policy\","
        "\"oneOf\":[{\"$ref\":\"#/$defs/name\"},{\"$ref\":\"#/$defs/plan\"}],\"$defs\":{"
        "\"name\":{\"enum\":[]},"
        "\"plan\":{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
        "\"properties\":{"
        "\"name\":{\"$ref\":\"#/$defs/name\"},"
        "\"budget\":{\"oneOf\":[{\"type\":\"integer\",\"minimum\":2,\"maximum\":16777216},"
        "{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":1}]},"
        "\"sinks\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":4096},"
        "\"recent\":{\"type\":\"integer\",\"minimum\":0},"
        "\"min_window\":{\"type\":\"integer\",\"minimum\":1},"
        "\"window\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1024},"
        "\"kernel\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":63,\"not\":{\"multipleOf\":2}},"
        "\"pool\":{\"enum\":[\"avg\",\"max\",\"none\"]},"
        "\"share\":{\"enum\":[\"head\",\"layer\"]},"
        "\"scorer\":{\"enum\":[\"recency\",\"attention_sum\",\"attention_mean\",\"window_"
        "attention\",\"last_query\","
        "\"persistence\",\"key_norm\",\"key_diff\",\"random\"]},"
        "\"allocation\":{\"enum\":[\"uniform\",\"pyramid\",\"adaptive\",\"profile\"]},"
        "\"prefill\":{\"enum\":[\"full\",\"stream\"]},"
        "\"decode\":{\"enum\":[\"grow\",\"evict\"]},"
        "\"interval\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":4096},"
        "\"remnant\":{\"enum\":[\"none\",\"mean\"]},"
        "\"positions\":{\"enum\":[\"original\",\"cache\"]},"
        "\"storage\":{\"enum\":[\"f16\",\"bf16\",\"q8\",\"q4\"]},"
        "\"sparsity\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1},"
        "\"seed\":{\"type\":\"integer\"},"
        "\"trace\":{\"type\":\"boolean\"}}}}}";
    json_t *all = json_loads(schema, 0, NULL);
    json_t *names = json_object_get(json_object_get(json_object_get(all, "$defs"), "name"), "enum");
    for (uint32_t i = 0; i < preset_count(); i++)
        json_array_append_new(names, json_string(preset_at(i)->name));
    return all;
}
