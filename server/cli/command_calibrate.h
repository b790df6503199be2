/* `winnow calibrate MODEL -o PROFILE.json`: finds the model's retrieval heads and writes the head
 * profile that `--head-profile` takes. No engine; the threads are the calibration's own. */
#ifndef WINNOW_SERVER_CLI_COMMAND_CALIBRATE_H
#define WINNOW_SERVER_CLI_COMMAND_CALIBRATE_H

/* argv[0] is "calibrate". Returns the exit status: 0, 1 when the model or the file is bad, 2 when
 * the command line is, 130 after an interrupt. */
int command_calibrate(int argc, char **argv);

#endif
