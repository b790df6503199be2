/* What cppcheck must know of <sys/queue.h>, which it does not read: that a loop over a list gives its variable a value. */
#define TAILQ_FOREACH(v, head, field) for ((v) = (head)->tqh_first; (v); (v) = (v)->field.tqe_next)
