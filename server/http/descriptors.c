/* See descriptors.h. */
#include "server/http/descriptors.h"

#include <sys/resource.h>

#include "config/base/log.h"

/* For listeners, the loop, the model's files, a GPU's driver, and a margin. */
enum { OTHER_DESCRIPTORS = 64 };

uint32_t descriptors_for(uint32_t n)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)n + OTHER_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return n;
    if (limit.rlim_cur < wanted) {
        rlim_t before = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &limit))
            limit.rlim_cur = before;
    }
    if (limit.rlim_cur >= wanted)
        return n;
    uint32_t fit = limit.rlim_cur > 2 * OTHER_DESCRIPTORS
                       ? (uint32_t)(limit.rlim_cur - OTHER_DESCRIPTORS)
                   : limit.rlim_cur > 1 ? (uint32_t)(limit.rlim_cur / 2)
                                        : 1;
    log_line(LOG_WARNING,
             "at most %u connections instead of the %u of --max-connections: this process may open "
             "%llu files (ulimit -n)",
             fit, n, (unsigned long long)limit.rlim_cur);
    return fit;
}
