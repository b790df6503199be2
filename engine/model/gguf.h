/* Model files in the GGUF format (version 2 or 3, little endian), read by mmap. Opening checks all
 * that is used later: counts, string lengths, types, dimensions, offsets, alignment, sizes and
 * overlaps. The format is ggml's GGUF specification.
 *
 * source_open calls it on the opening thread; tests and the fuzzer open bytes in memory. */
#ifndef WINNOW_ENGINE_MODEL_GGUF_H
#define WINNOW_ENGINE_MODEL_GGUF_H

#include "engine/model/source.h"

/* NULL: "invalid_model" with the file's name, the defect and its byte offset, "file_not_found", "file_error" or
 * "out_of_memory". Close with source_close. */
struct model_source *gguf_open(const char *path, enum source_use use, struct error *e);

/* The same over bytes that the caller keeps alive. */
struct model_source *gguf_open_memory(const void *bytes, size_t n_bytes, struct error *e);

#endif
