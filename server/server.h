/* The front end's life: listen, load, serve, drain, stop. Loop thread. */
#ifndef WINNOW_SERVER_SERVER_H
#define WINNOW_SERVER_SERVER_H

#include "config/config.h"

/* Opens the listeners, loads the model on a thread of its own (health says 503 model_loading with
 * progress), then serves until SIGTERM/SIGINT; returns the process's exit code. Prints one line per
 * fact at start. */
int server_run(const struct config *c);

#endif
