/* The server's life: listen, load, serve, drain, stop. Loop thread. */
#ifndef WINNOW_SERVER_SERVER_H
#define WINNOW_SERVER_SERVER_H

#include "config/config.h"

/* Opens the listeners and loads the model on another thread; meanwhile /health answers 503
 * model_loading with the progress. Then serves until SIGTERM or SIGINT. Logs one line per fact at
 * the start. Returns the process's exit status. */
int server_run(const struct config *c);

#endif
