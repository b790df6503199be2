/* The program's entry: picks the subcommand. */
#include <stdio.h>

#include "config/version.h"

int main(void)
{
    printf("winnow %s (%s)\n", version_string(), version_commit());
    return 0;
}
