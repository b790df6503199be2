/* A hash that names a model in files that belong to it (head profiles). Any thread. */
#ifndef WINNOW_ENGINE_MODEL_MODEL_HASH_H
#define WINNOW_ENGINE_MODEL_MODEL_HASH_H

#include "engine/model/model.h"

/* Hex SHA-256 over all metadata (keys, types, values) and every tensor's name, type and shape, in
 * file order. The weights' bytes are left out, so it takes milliseconds. Copying or renaming a file
 * does not change it; another quantisation or an edited chat template does. Returns `out`. */
const char *model_hash(const struct model *m, char out[65]);

#endif
