/* Page tables on the device have what the host set last, in any order in which a launch makes
 * its changes. */
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/host/backend_private.h"
#include "tests/cuda_emu/device_array.h"
#include "tests/suite.h"

START_TEST(an_entry_that_changes_twice_holds_the_last_page)
{
    enum { ENTRIES = 70000 }; /* more than one flush takes */
    struct cuda_backend c;
    struct error e = {};
    memset(&c, 0, sizeof c);
    MUST(cudaStreamCreate(&c.stream));
    ck_assert_msg(mailbox_open(&c, 1 << 20, &e) && state_open(&c, 4096, 1152, &e), "%s", e.message);
    const struct state_memory *m = &c.state_memory;
    uint32_t *table = (uint32_t *)m->take(m->context, ENTRIES * sizeof *table);
    ck_assert(table != NULL);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        m->set_page(m->context, table + i, i);
        if (i % 3 == 0)
            m->set_page(m->context, table + i, i + ENTRIES);
        if (i >= 100 && i % 5 == 0)
            m->set_page(m->context, table + i - 100, i);
    }
    state_flush(&c);
    std::vector<uint32_t> got(ENTRIES);
    MUST(cudaStreamSynchronize(c.stream));
    MUST(cudaMemcpy(got.data(), table, ENTRIES * sizeof *table, cudaMemcpyDeviceToHost));
    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint32_t want = i % 5 == 0 && i + 100 < ENTRIES ? i + 100 : i % 3 == 0 ? i + ENTRIES : i;
        if (got[i] != want)
            ck_abort_msg("entry %u holds page %u, not %u", i, got[i], want);
    }
    state_close(&c);
    mailbox_close(&c);
    MUST(cudaStreamDestroy(c.stream));
}
END_TEST

int main()
{
    setenv("WINNOW_EMU_SEED", "3", 0); /* threads in another order than their own, where emulated */
    Suite *suite = suite_create("cuda_state");
    TCase *t = suite_case(suite, "cuda_state", 60);
    tcase_add_test(t, an_entry_that_changes_twice_holds_the_last_page);
    return suite_run(suite);
}
