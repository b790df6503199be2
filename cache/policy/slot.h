/* Slots, as policies and pages count them: how many a page has, what marks a hole, how long a
 * slot's history is. */
#ifndef WINNOW_CACHE_POLICY_SLOT_H
#define WINNOW_CACHE_POLICY_SLOT_H

#include <stdint.h>

#ifndef PAGE_SLOTS
#define PAGE_SLOTS 32
#endif

/* The position of a hole: later than every query, so nobody sees it. */
#define HOLE INT32_MAX

/* Scissorhands' window of queries, and the words of a slot's history: bit t % HISTORY_QUERIES. */
#define HISTORY_QUERIES 400
#define HISTORY_WORDS   ((HISTORY_QUERIES + 31) / 32)

/* Pages that hold n_slots of one head. */
static inline uint64_t pages_of_slots(uint64_t n_slots)
{
    return (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
}

#endif
