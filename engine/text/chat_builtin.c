/* The formats of the common model families as Jinja sources, so that one interpreter renders all.
 *
 * A tool's result has its own role where the format allows any role, and is a user turn elsewhere.
 * In formats without a system role the system message is part of the first user turn. */
#include "engine/text/chat_builtin.h"

#include <stddef.h>
#include <string.h>

static const char chatml[] =
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

static const char llama3[] =
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- set role = 'ipython' if message.role == 'tool' else message.role %}"
    "{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + (message.content or '') | trim "
    "+ '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}";

static const char zephyr[] =
    "{%- for message in messages %}"
    "{%- set role = 'user' if message.role == 'tool' else message.role %}"
    "{{- '<|' + role + '|>\\n' + (message.content or '') + eos_token + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}";

static const char gemma[] =
    "{{- bos_token }}"
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{%- set ns.system = ns.system + (message.content or '') | trim + '\\n\\n' %}"
    "{%- else %}"
    "{%- set role = 'model' if message.role == 'assistant' else 'user' %}"
    "{{- '<start_of_turn>' + role + '\\n' }}"
    "{%- if role == 'user' %}{{- ns.system }}{%- set ns.system = '' %}{%- endif %}"
    "{{- (message.content or '') | trim + '<end_of_turn>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if ns.system %}"
    "{{- '<start_of_turn>user\\n' + ns.system | trim + '<end_of_turn>\\n' }}"
    "{%- endif %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}";

static const char llama2[] =
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{%- set ns.system = ns.system + '<<SYS>>\\n' + (message.content or '') + '\\n<</SYS>>\\n\\n' "
    "%}"
    "{%- elif message.role == 'assistant' %}"
    "{{- ' ' + (message.content or '') | trim + ' ' + eos_token }}"
    "{%- else %}"
    "{{- bos_token + '[INST] ' + ns.system + (message.content or '') | trim + ' [/INST]' }}"
    "{%- set ns.system = '' %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if ns.system %}{{- bos_token + '[INST] ' + ns.system | trim + ' [/INST]' }}{%- endif %}";

static const char mistral[] =
    "{{- bos_token }}"
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{%- set ns.system = ns.system + (message.content or '') | trim + '\\n\\n' %}"
    "{%- elif message.role == 'assistant' %}"
    "{{- ' ' + (message.content or '') | trim + eos_token }}"
    "{%- else %}"
    "{{- '[INST] ' + ns.system + (message.content or '') | trim + ' [/INST]' }}"
    "{%- set ns.system = '' %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if ns.system %}{{- '[INST] ' + ns.system | trim + ' [/INST]' }}{%- endif %}";

const char *chat_builtin_source(const char *name)
{
    static const struct {
        const char *name, *source;
    } all[] = {{"chatml", chatml},   {"llama2", llama2}, {"llama3", llama3},
               {"mistral", mistral}, {"gemma", gemma},   {"zephyr", zephyr}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].source;
    return NULL;
}
