/* See command_line.h. */
#include "server/cli/command_line.h"

#include <string.h>
#include <unistd.h>

#include "config/base/size.h"

bool flag_whole_number(const char *flag, const char *text, uint64_t min, uint64_t max,
                       uint64_t *out, struct error *e)
{
    char shown[80];
    return whole_number_parse(text, min, max, out) ||
           error_set(e, "invalid_value", flag, "\"%s\" is not an integer in %llu to %llu",
                     error_excerpt(shown, text, strlen(text)), (unsigned long long)min,
                     (unsigned long long)max);
}

bool command_line_model(int argc, char **argv, bool help, const char **model_path, struct error *e)
{
    if (optind < argc && !*model_path)
        *model_path = argv[optind++];
    if (help)
        return true;
    if (optind < argc)
        return error_set(e, "invalid_value", "", "\"%.80s\" is one argument too many",
                         argv[optind]);
    return *model_path || error_set(e, "invalid_value", "", "no model file was named");
}
