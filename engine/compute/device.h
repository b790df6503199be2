/* The kinds of devices that can compute, as a table with one row a vendor. Nothing in engine/ names
 * a vendor: the program that is linked from all rooms gathers the rows (server/devices.c), picks
 * one and hands it down. Main thread, or the one that loads the model.
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

/* What a backend must know when it is opened. A kind ignores what it has no use for. */
struct device_options {
    uint32_t n_threads;            /* of the CPU */
    const char *isa;               /* of the CPU, NULL = best */
    double memory_share;           /* of the device's own memory that may be used; 0 = 0.9 */
    uint32_t max_rows, max_logits; /* of a step */
    uint32_t max_slots;            /* of any head, beside the spare ones of a stream */
};

struct device_kind {
    const char *name;    /* for --device, and the backend's */
    uint32_t usual_rows; /* of a step where no other number is asked for */
    bool has_own_memory; /* which is for nothing else: a KV pool may take all that is free */
    /* Devices that this process could use; 0 and why not in *reason (a static string). */
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
    const char *why; /* "auto" is the CPU because of this (a static string); "" otherwise */
};

/* name: of a kind, or "auto" (or NULL). False: "invalid_value" for a name that is not in the table,
 * "device_unavailable" for a kind without a device. */
bool device_pick(const struct device_table *table, const char *name, struct device *out,
                 struct error *e);

/* kind->open, after which b->close is NULL exactly when it failed. The caller closes (b->close). */
bool device_open(struct backend *b, const struct device_kind *kind, const struct device_options *o,
                 const struct model *m, struct error *e);

#endif
