/* common/backbone/loss.h: how well logits foretold a token. */
#ifndef FS_BACKBONE_LOSS_H
#define FS_BACKBONE_LOSS_H

#include <stdint.h>

/* -ln of the token's probability, in float64, summed from token 0 up: nats. Not finite if a logit is not. logits [vocab_size];
 * token < vocab_size. Thread: any. */
double fs_cross_entropy(const float *logits, uint32_t vocab_size, uint32_t token);

#endif
