/* A buddy allocator: see buddy.h.
 *
 * The block is a row of units of BUDDY_LEAST bytes. A piece of order k is 2^k units and begins
 * at a multiple of 2^k, so its buddy is at offset ^ 2^k. Free pieces of one order are a doubly
 * linked list through arrays indexed by unit. A block whose size is no power of two begins as
 * several free pieces. */
#include "cuda/host/buddy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { N_ORDERS = 40, NOT_A_PIECE = 0xff, IS_FREE = 0x80 };
#define NONE UINT32_MAX

struct buddy {
    uint32_t n_units;
    uint64_t used_units;
    uint32_t first[N_ORDERS];  /* first free piece of an order, NONE without */
    uint32_t *next, *previous; /* [n_units] where a free piece begins */
    uint8_t *state;            /* [n_units] order of the piece that begins here, | IS_FREE */
};

static void list_push(struct buddy *a, uint32_t unit, uint32_t order)
{
    a->state[unit] = (uint8_t)(order | IS_FREE);
    a->previous[unit] = NONE;
    a->next[unit] = a->first[order];
    if (a->first[order] != NONE)
        a->previous[a->first[order]] = unit;
    a->first[order] = unit;
}

static void list_remove(struct buddy *a, uint32_t unit, uint32_t order)
{
    uint32_t next = a->next[unit], previous = a->previous[unit];
    if (previous == NONE)
        a->first[order] = next;
    else
        a->next[previous] = next;
    if (next != NONE)
        a->previous[next] = previous;
    a->state[unit] = NOT_A_PIECE;
}

struct buddy *buddy_new(uint64_t n_bytes)
{
    uint64_t units = n_bytes / BUDDY_LEAST;
    struct buddy *a = calloc(1, sizeof *a);
    if (!a || units >= NONE / 2)
        goto fail;
    a->n_units = (uint32_t)units;
    a->next = malloc((units + 1) * sizeof *a->next);
    a->previous = malloc((units + 1) * sizeof *a->previous);
    a->state = malloc(units + 1);
    if (!a->next || !a->previous || !a->state)
        goto fail;
    memset(a->state, NOT_A_PIECE, units + 1);
    for (uint32_t i = 0; i < N_ORDERS; i++)
        a->first[i] = NONE;
    for (uint32_t at = 0, order = 30; at < a->n_units; order--)
        if ((UINT32_C(1) << order) <= a->n_units - at) {
            list_push(a, at, order);
            at += UINT32_C(1) << order;
            order = 31;
        }
    return a;
fail:
    buddy_free(a);
    return NULL;
}

void buddy_free(struct buddy *a)
{
    if (!a)
        return;
    free(a->next);
    free(a->previous);
    free(a->state);
    free(a);
}

static uint32_t order_of(uint64_t bytes)
{
    uint32_t order = 0;
    while (order < N_ORDERS - 1 && ((uint64_t)BUDDY_LEAST << order) < bytes)
        order++;
    return order;
}

uint64_t buddy_take(struct buddy *a, uint64_t bytes)
{
    uint32_t wanted = order_of(bytes), order = wanted;
    while (order < N_ORDERS && a->first[order] == NONE)
        order++;
    if (order == N_ORDERS)
        return BUDDY_NONE;
    uint32_t unit = a->first[order];
    list_remove(a, unit, order);
    while (order > wanted) {
        order--;
        list_push(a, unit + (UINT32_C(1) << order), order);
    }
    a->state[unit] = (uint8_t)wanted;
    a->used_units += UINT64_C(1) << wanted;
    return (uint64_t)unit * BUDDY_LEAST;
}

void buddy_give(struct buddy *a, uint64_t offset)
{
    uint32_t unit = (uint32_t)(offset / BUDDY_LEAST), order = a->state[unit];
    assert(unit < a->n_units && order < N_ORDERS);
    a->used_units -= UINT64_C(1) << order;
    a->state[unit] = NOT_A_PIECE;
    for (;;) {
        uint32_t size = UINT32_C(1) << order, buddy = unit ^ size;
        if (buddy >= a->n_units || a->state[buddy] != (order | IS_FREE))
            break;
        list_remove(a, buddy, order);
        unit &= ~size;
        order++;
    }
    list_push(a, unit, order);
}

uint64_t buddy_used_bytes(const struct buddy *a)
{
    return a->used_units * BUDDY_LEAST;
}
