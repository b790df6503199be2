/* Finds the row of a flag: see options.h. Main thread. */
#include <string.h>

#include "config/base/nearest.h"
#include "config/options_private.h"

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

const struct option_row *option_find(enum option_command command, const char *flag)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        if (!option_taken(command, &option_rows[i]))
            continue;
        if (!strncmp(flag, "--", 2) && !strcmp(flag + 2, option_rows[i].name))
            return &option_rows[i];
        if (alias_matches(option_rows[i].aliases, flag))
            return &option_rows[i];
    }
    return NULL;
}

static enum option_command asked; /* for name_of */

/* "" for rows that the command does not take: no word is near to it. */
static const char *name_of(uint32_t i)
{
    return option_taken(asked, &option_rows[i]) ? option_rows[i].name : "";
}

const char *option_nearest(enum option_command command, const char *flag)
{
    while (*flag == '-')
        flag++;
    asked = command;
    return nearest_name(flag, name_of, n_option_rows);
}
