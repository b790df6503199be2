/* FNV-1a, 64 bits. Not for bytes that a client can choose: those are hashed with a seed or by SHA-256.
 * Any thread. */
#ifndef WINNOW_CONFIG_BASE_HASH_H
#define WINNOW_CONFIG_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define FNV_START UINT64_C(0xCBF29CE484222325)

/* Continues `hash` with n bytes of `data`. Start with FNV_START. */
static inline uint64_t fnv_add(uint64_t hash, const void *data, size_t n)
{
    const uint8_t *bytes = (const uint8_t *)data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    return hash;
}

#endif
