/* `winnow tokenize MODEL (-p TEXT | -f FILE) [--bos] [--special] [--ids]`: shows how a model's
 * tokenizer cuts a text. Works on files that hold a vocabulary and no weights. One thread, no
 * engine. */
#ifndef WINNOW_SERVER_CLI_COMMAND_TOKENIZE_H
#define WINNOW_SERVER_CLI_COMMAND_TOKENIZE_H

/* argv[0] is "tokenize". Returns the exit status: 0, 1 when something failed, 2 when the command
 * line is wrong. */
int command_tokenize(int argc, char **argv);

#endif
