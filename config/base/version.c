/* Version and commit, in a file of its own so that a new commit recompiles only this. */
#include "config/base/version.h"

#ifndef WINNOW_COMMIT
#define WINNOW_COMMIT "unknown"
#endif

const char *version_string(void)
{
    return WINNOW_VERSION;
}

const char *version_commit(void)
{
    return WINNOW_COMMIT;
}
