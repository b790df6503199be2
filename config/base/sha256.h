/* SHA-256 (FIPS 180-4): the hash that identifies a model. Any thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_SHA256_H
#define WINNOW_CONFIG_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t n_bytes;  /* seen so far */
    uint8_t block[64]; /* the last n_bytes % 64 of them */
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t n_bytes);
void sha256_add_u64(struct sha256 *s, uint64_t number); /* 8 bytes, little endian */
/* Ends the hash. `s` must be initialised again before its next use. */
void sha256_finish(struct sha256 *s, uint8_t digest[32]);
/* 64 lower-case hex digits and a NUL. */
void sha256_hex(const uint8_t digest[32], char out[65]);

#endif
