/* The version of this binary. Any thread. */
#ifndef WINNOW_CONFIG_BASE_VERSION_H
#define WINNOW_CONFIG_BASE_VERSION_H

const char *version_string(void); /* "0.1.0" */
const char *version_commit(void); /* short git hash, or "unknown" */

#endif
