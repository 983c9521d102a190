#include "backbone/loss.h"

#include <math.h>

double fs_cross_entropy(const float *logits, uint32_t vocab_size, uint32_t token)
{
    double most = (double)logits[0], sum = 0;
    for (uint32_t i = 1; i < vocab_size; i++)
        if ((double)logits[i] > most) most = (double)logits[i];
    for (uint32_t i = 0; i < vocab_size; i++) sum += exp((double)logits[i] - most);
    return log(sum) + most - (double)logits[token];
}
