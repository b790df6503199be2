/* Binding tensors of a file to a model's fields, with every shape checked: private to the model
 * loader. */
#ifndef WINNOW_ENGINE_MODEL_MODEL_BIND_H
#define WINNOW_ENGINE_MODEL_MODEL_BIND_H

#include "engine/model/model.h"

/* Binds all tensors of m->file; the hyperparameters are set. False: "invalid_model" or
 * "out_of_memory". */
bool model_bind(struct model *m, struct error *e);
void model_unbind(struct model *m);

#endif
