/* The table of architectures: see arch.h. */
#include "engine/model/arch.h"

#include <stdio.h>
#include <string.h>

static const struct arch rows[] = {
    /* Llama 1 to 3, Mistral, SmolLM, TinyLlama */
    {"llama", arch_llama_read, .qkv_bias = WEIGHT_OPTIONAL},
    {"qwen2", arch_llama_read, .rope_neox = true, .qkv_bias = WEIGHT_REQUIRED},
    {"qwen3", arch_llama_read, .rope_neox = true, .qkv_bias = WEIGHT_OPTIONAL,
     .qk_norm = WEIGHT_REQUIRED},
    {"phi3", NULL, .special_takes_space = true},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static const struct arch *row_of(struct source_text name)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (source_text_is(name, rows[i].name))
            return &rows[i];
    return NULL;
}

const struct arch *arch_find(const struct model_source *source)
{
    struct source_text name;
    return source_get_text(source, "general.architecture", &name, NULL) ? row_of(name) : NULL;
}

/* "llama, qwen2 and qwen3" */
static const char *list_runnable(char *out, size_t size)
{
    size_t n = 0, last = 0, used = 0;
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].read)
            last = i;
    for (size_t i = 0; i < N_ROWS && used < size; i++)
        if (rows[i].read)
            used += (size_t)snprintf(out + used, size - used, "%s%s",
                                     n++ == 0    ? ""
                                     : i == last ? " and "
                                                 : ", ",
                                     rows[i].name);
    return out;
}

const struct arch *arch_to_run(const struct model_source *source, struct error *e)
{
    struct source_text name;
    char shown[80], ours[512];
    if (!source_get_text(source, "general.architecture", &name, e))
        return NULL;
    const struct arch *arch = row_of(name);
    if (arch && arch->read)
        return arch;
    error_set(e, "invalid_model", "general.architecture",
              "the architecture is '%s'; winnow runs %s",
              error_excerpt(shown, name.data, name.length), list_runnable(ours, sizeof ours));
    return NULL;
}
