/* API keys: see auth.h. */
#include "server/http/auth.h"

#include <string.h>
#include <strings.h>

const char *auth_key_of(const char *authorization, const char *x_api_key, const char *api_key)
{
    if (authorization && !strncasecmp(authorization, "Bearer", 6) && authorization[6] == ' ') {
        const char *key = authorization + 6;
        while (*key == ' ')
            key++;
        return key;
    }
    return x_api_key ? x_api_key : api_key;
}

/* Always compares every byte of the client's key. The length of our key is not a secret. */
static bool equal(const char *ours, const char *theirs)
{
    size_t n = strlen(ours), m = strlen(theirs);
    unsigned difference = n != m;
    for (size_t i = 0; i < m; i++)
        difference |= (unsigned char)theirs[i] ^ (unsigned char)ours[n ? i % n : 0];
    return difference == 0;
}

uint32_t auth_find(const struct config *c, const char *key, bool *is_admin)
{
    uint32_t found = 0;
    *is_admin = false;
    if (!key)
        return 0;
    for (uint32_t i = 0; i < c->n_api_keys; i++)
        if (equal(c->api_keys[i].key, key))
            found = i + 1;
    if (c->admin_api_key && equal(c->admin_api_key, key))
        *is_admin = true;
    return found;
}
