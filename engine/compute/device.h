/* The kinds of devices that can compute: a table with one row per vendor. engine/ names no vendor;
 * the server has the table (server/devices.c), picks a row and passes it down. Main thread, or the
 * one that loads the model.
 *
 *   server/devices.c   { &device_cpu, &device_cuda }
 *          | device_pick(table, "auto" | a name)
 *          v
 *   struct device { kind, why } -> runtime_start -> kind->open(backend, sizes, model)
 *
 * A second vendor is a room that implements struct backend, a struct device_kind in it, and its
 * address in the table. */
#ifndef WINNOW_ENGINE_COMPUTE_DEVICE_H
#define WINNOW_ENGINE_COMPUTE_DEVICE_H

#include "engine/compute/backend.h"
#include "engine/model/model.h"

/* What a backend needs to know when it is opened. A kind ignores what does not concern it. */
struct device_options {
    uint32_t n_threads;            /* of the CPU */
    const char *isa;               /* of the CPU, NULL = best */
    double memory_share;           /* the share of the device's memory that may be used; 0 = 0.9 */
    uint32_t max_rows, max_logits; /* of a step */
    uint32_t max_slots;            /* of any head, without the spare ones of a stream */
};

struct device_kind {
    const char *name;    /* for --device; also the backend's */
    uint32_t usual_rows; /* default for the rows of a step */
    bool has_own_memory; /* nothing else uses it, so a KV pool may take all that is free */
    /* How many devices this process can use; if 0, *reason (a static string) says why. */
    uint32_t (*count)(const char **reason);
    /* Fills *b. False: "device_unavailable", "out_of_memory", "unsupported_value". */
    bool (*open)(struct backend *b, const struct device_options *o, const struct model *m,
                 struct error *e);
};

/* kinds[0] is the CPU, which every machine has. "auto" is the last kind with a device. */
struct device_table {
    const struct device_kind *const *kinds;
    uint32_t n;
};

struct device {
    const struct device_kind *kind;
    const char *why; /* why "auto" became the CPU (a static string); "" otherwise */
};

/* name: of a kind; "auto" or NULL picks one. False: "invalid_value" for an unknown name,
 * "device_unavailable" for a kind without a device. */
bool device_pick(const struct device_table *table, const char *name, struct device *out,
                 struct error *e);

/* kind->open. b->close is NULL after a failure; after success the caller calls it in the end. */
bool device_open(struct backend *b, const struct device_kind *kind, const struct device_options *o,
                 const struct model *m, struct error *e);

#endif
