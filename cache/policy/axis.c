/* The table of axes, made of PLAN_AXES: see axis.h. */
#include "cache/policy/axis.h"

#include <string.h>

/* ---- names of values, in the order of the enums */

#define SCORER_NAME(id, name, ...) name,
static const char *const scorers[] = {SCORERS(SCORER_NAME)};
static const char *const allocations[] = {"uniform", "pyramid", "adaptive", "adaptive_floor",
                                          "profile"};
static const char *const prefills[] = {"full", "stream"};
static const char *const decodes[] = {"grow", "evict"};
static const char *const remnants[] = {"none", "mean"};
static const char *const positions[] = {"original", "cache"};
static const char *const storages[] = {"f16", "bf16", "q8", "q4"};
static const char *const poolings[] = {"avg", "max", "none"};
static const char *const shares[] = {"head", "layer"};

#define NAMES(of)                                                                                  \
    {                                                                                              \
        .names = of, .n = sizeof of / sizeof *of                                                   \
    }
static const struct axis_names scorer_names = {scorers, N_SCORERS, true};
static const struct axis_names allocation_names = NAMES(allocations);
static const struct axis_names prefill_names = NAMES(prefills), decode_names = NAMES(decodes);
static const struct axis_names remnant_names = NAMES(remnants), positions_names = NAMES(positions);
static const struct axis_names storage_names = NAMES(storages), pooling_names = NAMES(poolings);
static const struct axis_names share_names = NAMES(shares);

/* ---- readers */

static bool always(const struct plan_axes *v)
{
    (void)v;
    return true;
}

static bool evicts(const struct plan_axes *v)
{
    return v->has_budget || v->allocation == ALLOCATION_PROFILE;
}

static bool votes(const struct plan_axes *v)
{
    return evicts(v) && v->scorer == SCORER_WINDOW_ATTENTION;
}

static bool draws(const struct plan_axes *v)
{
    return evicts(v) && v->scorer == SCORER_RANDOM;
}

static bool has_profile(const struct plan_axes *v)
{
    return v->allocation == ALLOCATION_PROFILE;
}

static bool has_whole_heads(const struct plan_axes *v)
{
    return has_profile(v) && !votes(v);
}

static bool prefills_whole(const struct plan_axes *v)
{
    return evicts(v) && v->prefill == PREFILL_FULL;
}

static bool drops(const struct plan_axes *v)
{
    return prefills_whole(v) && v->decode == DECODE_EVICT;
}

static const struct axis_reader by_all = {always, NULL}, by_evicting = {evicts, NULL};
static const struct axis_reader by_full_prefill = {prefills_whole, NULL};
static const struct axis_reader by_votes = {votes, "the scorer 'window_attention'"};
static const struct axis_reader by_random = {draws, "the scorer 'random'"};
static const struct axis_reader by_profile = {has_profile, "the allocation 'profile'"};
static const struct axis_reader by_whole_heads = {
    has_whole_heads, "the allocation 'profile' with whole heads, which another scorer gives,"};
static const struct axis_reader by_dropping = {drops, "prefill 'full' with decode 'evict'"};

#define ROW(type, field, key, kind, least, most, names, reader, help)                              \
    {key,  help,  AXIS_##kind, offsetof(struct plan_axes, field), sizeof(type), least,             \
     most, names, &reader},
const struct axis plan_axis_table[N_PLAN_AXES] = {PLAN_AXES(ROW)};

const struct axis *axis_find(const char *key)
{
    for (uint32_t i = 0; i < N_PLAN_AXES; i++)
        if (!strcmp(key, plan_axis_table[i].key))
            return &plan_axis_table[i];
    return NULL;
}

const char *axis_choice(const struct axis *a, const struct plan_axes *v)
{
    unsigned value;
    memcpy(&value, axis_value(a, v), sizeof value);
    return a->names->names[value];
}

/* ---- names that others ask for */

const char *plan_scorer_name(enum plan_scorer v)
{
    return scorers[v];
}

const char *plan_storage_name(enum plan_storage v)
{
    return storages[v];
}

bool plan_storage_parse(const char *name, enum plan_storage *out)
{
    for (uint32_t i = 0; i < storage_names.n; i++)
        if (!strcmp(name, storages[i])) {
            *out = (enum plan_storage)i;
            return true;
        }
    return false;
}
