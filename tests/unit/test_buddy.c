/* The buddy allocator against a map of every unit: pieces taken and given back in any order, of
 * any block. */
#include <stdlib.h>
#include <string.h>

#include "cuda/host/buddy.h"
#include "tests/random.h"
#include "tests/suite.h"

/* An assertion for loops: Check writes every one of its own to a file, holding or not. */
#define require(holds, ...)                                                                        \
    do {                                                                                           \
        if (!(holds))                                                                              \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

struct piece {
    uint64_t offset, bytes;
};

/* The test's own record of what is taken. */
struct book {
    struct buddy *buddy;
    uint64_t n_bytes, used;
    bool *taken; /* [n_bytes / BUDDY_LEAST] */
    struct piece pieces[4096];
    uint32_t n_pieces;
};

static void book_open(struct book *b, uint64_t n_bytes)
{
    *b = (struct book){.buddy = buddy_new(n_bytes), .n_bytes = n_bytes};
    b->taken = calloc(n_bytes / BUDDY_LEAST + 1, sizeof *b->taken);
    ck_assert(b->buddy && b->taken);
}

static void book_close(struct book *b)
{
    buddy_free(b->buddy);
    free(b->taken);
}

static uint64_t rounded(uint64_t bytes)
{
    uint64_t piece = BUDDY_LEAST;
    while (piece < bytes)
        piece *= 2;
    return piece;
}

/* Whether some free run of that length begins at a multiple of `piece`: then one can be had. */
static bool is_room(const struct book *b, uint64_t piece)
{
    uint64_t units = piece / BUDDY_LEAST, n = b->n_bytes / BUDDY_LEAST;
    for (uint64_t at = 0; at + units <= n; at += units) {
        uint64_t i = 0;
        while (i < units && !b->taken[at + i])
            i++;
        if (i == units)
            return true;
    }
    return false;
}

static bool take(struct book *b, uint64_t bytes)
{
    const uint64_t piece = rounded(bytes), offset = buddy_take(b->buddy, bytes);
    require((offset != BUDDY_NONE) == is_room(b, piece),
            "%llu bytes of %llu, %llu of them used: %s", (unsigned long long)bytes,
            (unsigned long long)b->n_bytes, (unsigned long long)b->used,
            offset == BUDDY_NONE ? "refused though there is room" : "given without room");
    if (offset == BUDDY_NONE)
        return false;
    require(offset % piece == 0, "a piece of %llu bytes at %llu", (unsigned long long)piece,
            (unsigned long long)offset);
    require(offset + piece <= b->n_bytes, "%llu bytes at %llu lie beyond the block of %llu",
            (unsigned long long)piece, (unsigned long long)offset, (unsigned long long)b->n_bytes);
    for (uint64_t i = 0; i < piece / BUDDY_LEAST; i++) {
        require(!b->taken[offset / BUDDY_LEAST + i], "pieces overlap at %llu",
                (unsigned long long)(offset + i * BUDDY_LEAST));
        b->taken[offset / BUDDY_LEAST + i] = true;
    }
    b->used += piece;
    require(b->n_pieces < 4096, "more pieces than the test has room for");
    b->pieces[b->n_pieces++] = (struct piece){offset, piece};
    require(buddy_used_bytes(b->buddy) == b->used, "%llu bytes used, not %llu",
            (unsigned long long)buddy_used_bytes(b->buddy), (unsigned long long)b->used);
    return true;
}

static void give(struct book *b, uint32_t which)
{
    struct piece p = b->pieces[which];
    b->pieces[which] = b->pieces[--b->n_pieces];
    buddy_give(b->buddy, p.offset);
    memset(b->taken + p.offset / BUDDY_LEAST, 0, p.bytes / BUDDY_LEAST);
    b->used -= p.bytes;
    require(buddy_used_bytes(b->buddy) == b->used, "%llu bytes used, not %llu",
            (unsigned long long)buddy_used_bytes(b->buddy), (unsigned long long)b->used);
}

/* Mostly small ones, now and then a large one, rarely a power of two. */
static uint64_t any_bytes(uint64_t n_bytes)
{
    const uint32_t most = random_below(8) ? 2000 : (uint32_t)n_bytes + 100;
    return random_below(10) == 0 ? (uint64_t)BUDDY_LEAST << random_below(8) : random_below(most);
}

START_TEST(pieces_never_overlap_and_are_had_while_there_is_room)
{
    /* Powers of two, one less, one more, primes, and what is no multiple of BUDDY_LEAST. */
    static const uint64_t sizes[] = {0,    63,   64,    65,         128,    192,    4096,
                                     4032, 4160, 65536, 65536 + 64, 100003, 130944, 262144};
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        static struct book b;
        book_open(&b, sizes[i]);
        for (uint32_t step = 0; step < 4000; step++)
            if (b.n_pieces > 0 && random_below(100) < (step / 500 % 2 ? 65u : 40u))
                give(&b, random_below(b.n_pieces));
            else
                take(&b, any_bytes(sizes[i]));
        while (b.n_pieces > 0)
            give(&b, random_below(b.n_pieces));
        ck_assert_uint_eq(buddy_used_bytes(b.buddy), 0);
        book_close(&b);
    }
}
END_TEST

/* Filled with the least pieces and emptied in any order, a block gives its largest pieces again. */
START_TEST(everything_comes_back_together)
{
    static const uint32_t units[] = {1, 2, 3, 7, 64, 100, 1000, 1023, 1025};
    for (uint32_t i = 0; i < sizeof units / sizeof *units; i++) {
        static struct book b;
        const uint64_t n_bytes = (uint64_t)units[i] * BUDDY_LEAST;
        book_open(&b, n_bytes);
        for (uint32_t round = 0; round < 3; round++) {
            for (uint32_t u = 0; u < units[i]; u++)
                ck_assert_msg(take(&b, 1 + random_below(BUDDY_LEAST)), "unit %u of %u", u,
                              units[i]);
            ck_assert(!take(&b, 1));
            while (b.n_pieces > 0)
                give(&b, random_below(b.n_pieces));
            /* The block is the sum of the powers of two of its size: all can be had at once. */
            for (uint32_t bit = 32; bit-- > 0;)
                if (units[i] >> bit & 1)
                    ck_assert_msg(take(&b, (uint64_t)BUDDY_LEAST << bit), "2^%u of %u units", bit,
                                  units[i]);
            ck_assert_uint_eq(buddy_used_bytes(b.buddy), n_bytes);
            while (b.n_pieces > 0)
                give(&b, random_below(b.n_pieces));
        }
        book_close(&b);
    }
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    struct buddy *b = buddy_new(1 << 20);
    ck_assert_uint_eq(buddy_take(b, (1 << 20) + 1), BUDDY_NONE);
    ck_assert_uint_eq(buddy_take(b, UINT64_MAX), BUDDY_NONE);
    ck_assert_uint_eq(buddy_used_bytes(b), 0);
    ck_assert_uint_eq(buddy_take(b, 1 << 20), 0);
    buddy_free(b);
    buddy_free(NULL);
    ck_assert_ptr_null(buddy_new(UINT64_MAX));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("buddy");
    TCase *t = suite_case(suite, "buddy", 120);
    tcase_add_test(t, pieces_never_overlap_and_are_had_while_there_is_room);
    tcase_add_test(t, everything_comes_back_together);
    tcase_add_test(t, what_cannot_be_is_refused);
    return suite_run(suite);
}
